"""Time and memory of the timeline of long videos.

    python benchmarks/bench_long.py [--model miniature] [--minutes 10 60] [--window 30] [--stride 30]

Generates a video with sound of each length (320 x 180 pixels, 25 frames per second, H.264 with a keyframe every 10
seconds, AAC at 44.1 kHz), and answers its windows in a separate process. Prints the time without loading the model
(wall time, and processor time, which other programs change less), the part of it that decodes and encodes media, and
the peak memory of the process.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.machine import machine
from benchmarks.measuring import seconds_of

FPS, RATE, SIZE, CYCLE_SECONDS = 25, 44100, (180, 320), 120
ANSWER = """
import json, resource, sys, time
import video_llama

model, path, window, stride = sys.argv[1], sys.argv[2], float(sys.argv[3]), float(sys.argv[4])
assistant = video_llama.load(model)
loaded = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
start, cpu = time.perf_counter(), time.process_time()
timeline = assistant.timeline(path, "What happens in the video?", window=window, stride=stride, max_new_tokens=32)
seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
stages = {name: sum(each.answer.record.seconds[name] for each in timeline.windows)
          for name in ("decode_media", "encode_media")}
print(json.dumps({"windows": len(timeline.windows), "seconds": seconds, "cpu": cpu, **stages, "loaded": loaded,
                  "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss}))
"""


def encoded_cycle(video: Any) -> list[tuple[int, bytes, bool]]:
    """Return (pts, content, is keyframe) of the packets of CYCLE_SECONDS of video: moving gradients, a new colour every
    20 seconds."""
    y, x = np.mgrid[: SIZE[0], : SIZE[1]]
    packets = []
    for number in range(CYCLE_SECONDS * FPS):
        colour = np.full_like(x, 40 * (number // (20 * FPS)) % 256)
        image = np.stack([(x + number) % 256, (y + 2 * number) % 256, colour], axis=-1).astype(np.uint8)
        frame = av.VideoFrame.from_ndarray(image, format="rgb24")
        frame.pts = number
        packets += video.encode(frame)
    packets += video.encode(None)
    return [(packet.pts, bytes(packet), packet.is_keyframe) for packet in packets]


def write_film(path: Path, minutes: float) -> None:
    """Write a video whose picture repeats every CYCLE_SECONDS, with a tone that changes every 20 seconds."""
    with av.open(str(path), "w") as container:
        options = {"preset": "ultrafast", "g": str(10 * FPS), "bf": "0"}
        video = container.add_stream("libx264", rate=FPS, options=options)
        video.height, video.width, video.pix_fmt = *SIZE, "yuv420p"
        audio = container.add_stream("aac", rate=RATE, layout="stereo")
        cycle = encoded_cycle(video)
        for second in range(round(60 * minutes)):
            shift = second // CYCLE_SECONDS * CYCLE_SECONDS * FPS
            first = second % CYCLE_SECONDS * FPS
            for pts, content, is_keyframe in cycle[first : first + FPS]:
                packet = av.Packet(content)
                packet.stream, packet.time_base = video, Fraction(1, FPS)
                packet.pts = packet.dts = pts + shift
                packet.is_keyframe = is_keyframe
                container.mux(packet)
            times = np.arange(second * RATE, (second + 1) * RATE) / RATE
            wave = (0.3 * np.sin(2 * np.pi * (220 + 30 * (second // 20 % 20)) * times)).astype(np.float32)
            sound = av.AudioFrame.from_ndarray(np.stack([wave, wave]), format="fltp", layout="stereo")
            sound.sample_rate, sound.pts = RATE, second * RATE
            container.mux(audio.encode(sound))
        container.mux(audio.encode(None))


def main() -> None:
    """Measure each length and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="miniature")
    parser.add_argument("--minutes", type=float, nargs="+", default=[10, 60])
    parser.add_argument("--window", type=float, default=30)
    parser.add_argument("--stride", type=float, default=30)
    parser.add_argument("--suffix", default="mp4", help="Container: mp4, or mkv (its sound is decoded in order).")
    options = parser.parse_args()
    print(machine())
    print("| minutes | windows | s | CPU s | decoding s | encoding s | peak RSS MB | RSS after loading MB |")
    print("|---|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for minutes in options.minutes:
            path = Path(folder) / f"{minutes:g}.{options.suffix}"
            write_seconds = seconds_of(lambda path=path, minutes=minutes: write_film(path, minutes))
            print(f"(wrote {path.stat().st_size / 1e6:.0f} MB in {write_seconds:.0f} s)", file=sys.stderr)
            arguments = [options.model, str(path), str(options.window), str(options.stride)]
            run = subprocess.run([sys.executable, "-c", ANSWER, *arguments], check=True, capture_output=True, text=True)
            found = json.loads(run.stdout)
            seconds = " | ".join(f"{found[name]:.1f}" for name in ("seconds", "cpu", "decode_media", "encode_media"))
            megabytes = " | ".join(f"{found[name] * 1024 / 1e6:.0f}" for name in ("peak", "loaded"))
            print(f"| {minutes:g} | {found['windows']} | {seconds} | {megabytes} |", flush=True)
            path.unlink()


if __name__ == "__main__":
    main()
