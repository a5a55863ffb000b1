"""Audio preprocessing: 8 log-mel clips from a waveform, in one transform and clip by clip, compared with real time.

    python benchmarks/bench_audio.py [--runs N] [--json] [--long MINUTES ...]

The sound is generated noise and tones. Runs alternate, and the best of each is reported. Both ways start from the
16 kHz waveform; ``file`` is the whole path: decode a FLAC file of the given rate, resample, compute the mels. Exits
with 1 if the mels differ, or if processing a file takes longer than its duration.

``--long`` runs only this: stereo wav, m4a, flac and mp3 files of the given minutes at 48 kHz, with only the samples of
the clips kept, and with the whole track in memory; time and peak memory, each in a separate process.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.measuring import seconds_of
from video_llama.processors.audio_decode import read_waveform
from video_llama.processors.audio_processor import AudioProcessor
from video_llama.processors.fbank import log_mel_filter_bank
from video_llama.processors.resample import resample
from video_llama.processors.sound_clips import clip_starts, sample_range

CASES = ((16000, 10), (16000, 60), (44100, 10), (44100, 60))  # rate in Hz, seconds
CODECS = {".wav": "pcm_s16le", ".m4a": "aac", ".flac": "flac", ".mp3": "mp3"}
TOLERANCE = 1e-3  # log units; float32 sums in another order, typically 1e-5


@dataclass(frozen=True)
class Result:
    """Best times in seconds: all clips in one transform, clip by clip, and from a file of ``rate`` Hz."""

    rate: int
    seconds: int
    batched: float
    looped: float
    file: float
    max_difference: float

    @property
    def ratio(self) -> float:
        return self.batched / self.looped

    @property
    def times_real_time(self) -> float:
        return self.seconds / self.file


def sound(rate: int, seconds: int) -> np.ndarray:
    """float32 [2, samples]: two tones in noise."""
    rng = np.random.default_rng(0)
    moments = np.arange(rate * seconds) / rate
    tones = [np.sin(2 * np.pi * hertz * moments) for hertz in (440.0, 1300.0)]
    return (0.2 * np.stack(tones) + rng.normal(0, 0.05, (2, len(moments)))).astype(np.float32)


def write_flac(path: Path, waveform: np.ndarray, rate: int) -> Path:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("flac", rate=rate, layout="stereo")
        samples = np.rint(waveform * 32767).astype(np.int16).T.reshape(1, -1)
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(samples), format="s16", layout="stereo")
        frame.sample_rate, frame.pts, frame.time_base = rate, 0, Fraction(1, rate)
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def looped_mels(processor: AudioProcessor, samples: np.ndarray) -> np.ndarray:
    """Compute the mels clip by clip for a waveform at the processor's rate. [S, bins, frames]"""
    mels = []
    settings = processor.settings
    for start in clip_starts(samples.shape[1] / settings.sampling_rate, settings):
        first, last = sample_range(start, settings)
        clip = samples[:, first:last]
        centred = clip[0] - clip.mean(dtype=np.float64).astype(np.float32)
        mel = log_mel_filter_bank(centred[None], settings.sampling_rate, settings.num_mel_bins)[0].T
        padded = np.zeros((settings.num_mel_bins, settings.target_length), dtype=np.float32)
        padded[:, : mel.shape[1]] = mel
        mels.append(padded)
    return np.stack(mels)


def measure(rate: int, seconds: int, num_runs: int) -> Result:
    processor, waveform = AudioProcessor(), sound(rate, seconds)
    samples = resample(waveform, rate, processor.sampling_rate)
    difference = np.abs(
        processor.log_mels(processor.cut(samples, processor.sampling_rate)) - looped_mels(processor, samples)
    ).max()
    with tempfile.TemporaryDirectory() as folder:
        path = write_flac(Path(folder) / "a.flac", waveform, rate)
        calls: tuple[Callable[[], object], ...] = (
            lambda: processor.log_mels(processor.cut(samples, processor.sampling_rate)),
            lambda: looped_mels(processor, samples),
            lambda: processor.read(path),
        )
        times = [[seconds_of(call) for call in calls] for _ in range(num_runs)]
    batched, looped, file = (min(column) for column in zip(*times, strict=True))
    return Result(rate, seconds, batched, looped, file, float(difference))


def write_long(path: Path, minutes: int) -> Path:
    """Write the same second of noise repeatedly, at 48 kHz."""
    rate = 48000
    second = np.rint(sound(rate, 1) * 32767).astype(np.int16).T.reshape(1, -1)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(CODECS[path.suffix], rate=rate, layout="stereo")
        for index in range(60 * minutes):
            frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(second), format="s16", layout="stereo")
            frame.sample_rate, frame.pts, frame.time_base = rate, index * rate, Fraction(1, rate)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


READERS: dict[str, Callable[[Path], object]] = {
    "parts": lambda path: AudioProcessor().read(path),
    "whole": lambda path: AudioProcessor()(*read_waveform(path)),
}


def read_alone(way: str, path: Path) -> None:
    seconds = seconds_of(lambda: READERS[way](path))
    print(json.dumps({"seconds": seconds, "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}))


def print_long(minutes: int, suffix: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = write_long(Path(folder) / f"long.{suffix}", minutes)
        for way in READERS:
            command = [sys.executable, __file__, "--alone", way, str(path)]
            row = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
            print(f"{suffix}, {minutes} minutes, {way:<6}{row['seconds']:>7.1f} s{row['peak_bytes'] / 1e9:>7.2f} GB")


def print_table(results: list[Result]) -> None:
    print(f"{'sound':<16}{'one transform':>15}{'loop':>10}{'ratio':>8}{'file':>10}{'x real time':>13}  difference")
    for r in results:
        name = f"{r.rate} Hz, {r.seconds} s"
        print(
            f"{name:<16}{1000 * r.batched:>12.1f} ms{1000 * r.looped:>7.1f} ms{r.ratio:>8.2f}{1000 * r.file:>7.1f} ms"
            f"{r.times_real_time:>13.0f}  {r.max_difference:.1e}"
        )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=60, metavar="N", help="runs of each; the best is reported")
    parser.add_argument("--json", action="store_true", help="print the results as JSON")
    parser.add_argument("--long", type=int, nargs="+", metavar="MINUTES", help="long tracks: time and memory")
    parser.add_argument("--alone", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.alone:
        read_alone(arguments.alone[0], Path(arguments.alone[1]))
        return 0
    if arguments.long:
        for suffix in ("wav", "m4a", "flac", "mp3"):
            for minutes in arguments.long:
                print_long(minutes, suffix)
        return 0
    results = [measure(rate, seconds, arguments.runs) for rate, seconds in CASES]
    if arguments.json:
        print(json.dumps([asdict(r) | {"ratio": r.ratio, "times_real_time": r.times_real_time} for r in results]))
    else:
        print_table(results)
    return int(any(r.times_real_time < 1 or r.max_difference > TOLERANCE for r in results))


if __name__ == "__main__":
    sys.exit(main())
