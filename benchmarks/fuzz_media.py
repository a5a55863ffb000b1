"""Read damaged media files and count what happens: every file must be read or raise MediaError.

    python benchmarks/fuzz_media.py --files 2000

Small valid files of many formats are written, then damaged at random (seeded): flipped bits, overwritten and repeated
parts, truncation, large numbers in headers, and parts of two files joined. Each is read as the program reads it, in a
process with a memory limit. Exit code 0: no exception outside the error family, no NaN in the mels, no crash, no file
over the limits of memory and time; 1: otherwise, with the seed and number of each such file.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from video_llama.errors import VideoLlamaError
from video_llama.processors.audio_processor import AudioProcessor
from video_llama.processors.medium import MediaOptions, read_medium
from video_llama.processors.settings import ProcessorSettings

MEMORY_BYTES = 2**30
"""Memory that reading one file may take in addition to the loaded libraries."""
FILE_SECONDS = 20.0
SETTINGS = ProcessorSettings()
VIDEOS = {
    "mp4": ("libx264", "aac"),
    "mkv": ("libx264", "flac"),
    "avi": ("mpeg4", "mp3"),
    "ts": ("mpeg2video", "mp2"),
    "mov": ("mjpeg", "pcm_s16le"),
    "webm": ("libvpx", "libopus"),
    "nut": ("mpeg4", "pcm_s16le"),
}
SOUNDS = {"wav": "pcm_s16le", "flac": "flac", "ogg": "libopus", "mp3": "mp3", "aiff": "pcm_s16be"}
PICTURES = ("jpg", "png", "gif", "webp", "tif", "bmp", "ppm")


def write_seeds(folder: Path) -> list[Path]:
    """Write one small file of each format that the build of FFmpeg supports."""
    rng = np.random.default_rng(0)
    paths = []
    for suffix, codecs in VIDEOS.items():
        paths += _written(folder / f"video.{suffix}", lambda path, codecs=codecs: _write_video(path, *codecs, rng))
    for suffix, codec in SOUNDS.items():
        paths += _written(folder / f"sound.{suffix}", lambda path, codec=codec: _write_video(path, None, codec, rng))
    for suffix in PICTURES:
        frames = [Image.fromarray(rng.integers(0, 256, (24, 32, 3), dtype=np.uint8)) for _ in range(3)]
        more = {"save_all": True, "append_images": frames[1:], "duration": 100} if suffix in ("gif", "webp") else {}
        frames[0].save(folder / f"animation.{suffix}", **more)
        frames[0].save(folder / f"picture.{suffix}")
        paths += [folder / f"animation.{suffix}", folder / f"picture.{suffix}"]
    return paths


def _written(path: Path, write: Callable[[Path], None]) -> list[Path]:
    try:
        write(path)
    except (av.error.FFmpegError, ValueError) as error:  # an encoder that this build lacks
        print(f"{path.name}: not written ({error})", file=sys.stderr)
        return []
    return [path]


def _write_video(path: Path, video_codec: str | None, audio_codec: str, rng: np.random.Generator) -> None:
    with av.open(str(path), "w") as container:
        video = container.add_stream(video_codec, rate=10) if video_codec else None
        if video is not None:
            video.width, video.height = 32, 24
            video.pix_fmt = "yuvj420p" if video_codec == "mjpeg" else "yuv420p"
        audio = container.add_stream(audio_codec, rate=48000, layout="mono")
        for number in range(12 if video is not None else 0):
            picture = av.VideoFrame.from_ndarray(rng.integers(0, 256, (24, 32, 3), dtype=np.uint8), format="rgb24")
            picture.pts = number
            container.mux(video.encode(picture))
        if video is not None:
            container.mux(video.encode(None))
        wave = (8000 * np.sin(np.arange(48000) * 0.1)).astype(np.int16)
        resampler = av.AudioResampler(format=audio.format.name, layout="mono", rate=48000, frame_size=audio.frame_size)
        frame = av.AudioFrame.from_ndarray(wave[None], format="s16", layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = 48000, 0, Fraction(1, 48000)
        for part in [*resampler.resample(frame), *resampler.resample(None)]:
            container.mux(audio.encode(part))
        container.mux(audio.encode(None))


def damaged(seeds: list[bytes], rng: np.random.Generator) -> bytes:
    """Return one of the files, damaged in one to four ways."""
    data = bytearray(seeds[rng.integers(len(seeds))])
    for _ in range(rng.integers(1, 5)):
        kind, place = rng.integers(6), int(rng.integers(max(len(data), 1)))
        if kind == 0:
            for position in rng.integers(0, max(len(data), 1), rng.integers(1, 20)):
                data[position : position + 1] = bytes([rng.integers(256)])
        elif kind == 1:
            data = data[:place]
        elif kind == 2:
            data[place : place + 4] = int(rng.choice([0, 1, 2**31 - 1, 2**32 - 1])).to_bytes(
                4, rng.choice(["big", "little"])
            )
        elif kind == 3:
            length = int(rng.integers(1, 200))
            data[place:place] = data[place : place + length] * int(rng.integers(1, 4))
        elif kind == 4:
            del data[place : place + int(rng.integers(1, 200))]
        else:
            other = seeds[rng.integers(len(seeds))]
            data += other[int(rng.integers(len(other))) :]
    return bytes(data)


def read_all(seed: int, first: int, last: int, folder: Path) -> None:
    """Read the damaged files ``first`` to ``last`` and print one JSON line each; the child process runs this."""
    seeds = [path.read_bytes() for path in sorted(folder.iterdir())]
    processor = AudioProcessor(SETTINGS)
    with open("/proc/self/statm", encoding="ascii") as file:
        used = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY_BYTES, used + MEMORY_BYTES))
    for number in range(first, last):
        data, start = damaged(seeds, np.random.default_rng([seed, number])), time.perf_counter()
        outcome = "read"
        try:
            medium = read_medium(data, SETTINGS, MediaOptions(), max_frames=32, with_audio_branch=True)
            if medium.sound is not None and not np.isfinite(processor.process(medium.sound).mel).all():
                outcome = "NaN"
        except VideoLlamaError as error:
            outcome = "over memory" if isinstance(error.__cause__, MemoryError) else "MediaError"
        except MemoryError:
            outcome = "over memory"
        except Exception as error:
            outcome = f"{type(error).__name__}: {error}"
        seconds = time.perf_counter() - start
        print(json.dumps([number, outcome if seconds < FILE_SECONDS else "over time", seconds]), flush=True)


def outcomes(seed: int, num_files: int, folder: Path) -> Iterator[tuple[int, str, float]]:
    """Yield (number, outcome, seconds) of every file; a process that dies is replaced."""
    first = 0
    while first < num_files:
        command = [sys.executable, __file__, "--child", str(folder), "--seed", str(seed)]
        command += ["--first", str(first), "--files", str(num_files)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as child:
            assert child.stdout is not None
            for line in child.stdout:
                number, outcome, seconds = json.loads(line)
                yield number, outcome, seconds
                first = number + 1
        if child.returncode != 0:
            yield first, f"crash ({child.returncode})", 0.0
            first += 1


def main() -> int:
    """Print the counts and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--files", type=int, default=2000, help="number of damaged files")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--first", type=int, default=0, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child is not None:
        read_all(options.seed, options.first, options.files, options.child)
        return 0
    counts: Counter[str] = Counter()
    slowest = 0.0
    with tempfile.TemporaryDirectory() as name:
        write_seeds(Path(name))
        for number, outcome, seconds in outcomes(options.seed, options.files, Path(name)):
            counts[outcome if outcome in ("read", "MediaError") else "bad"] += 1
            slowest = max(slowest, seconds)
            if outcome not in ("read", "MediaError"):
                print(f"file {number} of seed {options.seed}: {outcome}")
    print(
        f"{options.files} files: {counts['read']} read, {counts['MediaError']} MediaError, {counts['bad']} bad; ",
        end="",
    )
    print(f"slowest {slowest:.1f} s")
    return 0 if not counts["bad"] else 1


if __name__ == "__main__":
    sys.exit(main())
