"""Video decoding compared with decord's ``get_batch``: 8 frames at 224 x 224, wall and CPU time, equality of pixels.

    python benchmarks/bench_video_decode.py [--media DIR] [--runs N] [--json]

The script creates the files (moving texture, H.264 and HEVC). Runs alternate between the two decoders, and the best of
each is reported, so that other load affects both. A ratio below 1 means that this project is faster. Exits with 1 if it
is slower in wall time, or if a frame differs.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import av
import numpy as np

from video_llama.processors.video_processor import read_video

NUM_FRAMES, SIZE, FPS = 8, 224, 25
MEDIA_SUFFIXES = (".mp4", ".mov", ".mkv")  # not MPEG-TS, where decord hangs
BORDER = 64  # movement of the texture, in pixels


@dataclass(frozen=True)
class Clip:
    """A file to create. The group of pictures is 250 frames, the default of the encoders."""

    name: str
    codec: str
    height: int
    seconds: int
    options: tuple[tuple[str, str], ...] = ()


FAST = (("preset", "superfast"), ("bf", "3"), ("g", "250"))
CLIPS = (
    Clip("h264 720p 10 s", "libx264", 720, 10, FAST),
    Clip("h264 720p 60 s", "libx264", 720, 60, FAST),
    Clip("h264 1080p 20 s", "libx264", 1080, 20, FAST),
    Clip("hevc 720p 10 s", "libx265", 720, 10, (("preset", "ultrafast"), ("x265-params", "log-level=none:bframes=3"))),
)


@dataclass(frozen=True)
class Result:
    """Best times of each decoder in seconds, and whether the frames are bit-identical."""

    name: str
    wall: float
    cpu: float
    decord_wall: float
    decord_cpu: float
    is_equal: bool

    @property
    def wall_ratio(self) -> float:
        return self.wall / self.decord_wall

    @property
    def cpu_ratio(self) -> float:
        return self.cpu / self.decord_cpu


def make_clip(clip: Clip, folder: Path) -> Path:
    """Encode a moving texture with noise; its decoding cost is similar to that of a filmed scene."""
    path = folder / f"{clip.name.replace(' ', '_')}.mp4"
    width = clip.height * 16 // 9
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, ((clip.height + BORDER) // 16 + 1, (width + BORDER) // 16 + 1), dtype=np.uint8)
    texture = np.kron(coarse, np.ones((16, 16), np.uint8))
    texture = texture // 2 + rng.integers(0, 32, texture.shape, dtype=np.uint8)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(clip.codec, rate=FPS, options=dict(clip.options))
        stream.height, stream.width, stream.pix_fmt = clip.height, width, "yuv420p"
        for number in range(clip.seconds * FPS):
            down, right = number % BORDER, number * 3 // 2 % BORDER
            luma = texture[down : down + clip.height, right : right + width]
            planes = np.full((clip.height * 3 // 2, width), 128, np.uint8)
            planes[: clip.height] = luma
            container.mux(stream.encode(av.VideoFrame.from_ndarray(planes, format="yuv420p")))
        container.mux(stream.encode(None))
    return path


def read_ours(path: Path) -> np.ndarray:
    return read_video(path, size=(SIZE, SIZE)).frames


def read_with_decord(path: Path) -> np.ndarray:
    """Decode as the reference does: open at the target size and get the uniform indices."""
    import decord

    reader = decord.VideoReader(str(path), height=SIZE, width=SIZE)
    indices = np.arange(0, len(reader), len(reader) / NUM_FRAMES).astype(int)[:NUM_FRAMES].tolist()
    frames: np.ndarray = reader.get_batch(indices).asnumpy()
    return frames.transpose(0, 3, 1, 2)


def timed(read: Callable[[Path], np.ndarray], path: Path) -> tuple[float, float]:
    """Return (wall, CPU of all threads) in seconds."""
    wall, cpu = time.perf_counter(), time.process_time()
    read(path)
    return time.perf_counter() - wall, time.process_time() - cpu


def measure(name: str, path: Path, num_runs: int) -> Result:
    is_equal = bool(np.array_equal(read_ours(path), read_with_decord(path)))  # also warms the file cache
    ours, theirs = [], []
    for _ in range(num_runs):
        ours.append(timed(read_ours, path))
        theirs.append(timed(read_with_decord, path))
    (wall, cpu), (decord_wall, decord_cpu) = (tuple(map(min, zip(*runs, strict=True))) for runs in (ours, theirs))
    return Result(name, wall, cpu, decord_wall, decord_cpu, is_equal)


def run(media_dir: Path | None, num_runs: int) -> list[Result]:
    results = []
    with tempfile.TemporaryDirectory() as folder:
        for clip in CLIPS:
            results.append(measure(clip.name, make_clip(clip, Path(folder)), num_runs))
    if media_dir is not None:
        paths = sorted(path for path in media_dir.iterdir() if path.suffix in MEDIA_SUFFIXES)
        results += [measure(path.name, path, num_runs) for path in paths]
    return results


def print_table(results: list[Result]) -> None:
    print(f"{'file':<24}{'ours':>9}{'decord':>9}{'wall ratio':>12}{'CPU ratio':>11}  pixels")
    for result in results:
        print(
            f"{result.name[:23]:<24}{result.wall:>8.3f}s{result.decord_wall:>8.3f}s{result.wall_ratio:>12.2f}"
            f"{result.cpu_ratio:>11.2f}  {'equal' if result.is_equal else 'DIFFER'}"
        )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--media", type=Path, metavar="DIR", help="also measure the videos in this folder")
    parser.add_argument("--runs", type=int, default=3, metavar="N", help="runs of each; the best is reported")
    parser.add_argument("--json", action="store_true", help="print the results as JSON")
    arguments = parser.parse_args()
    results = run(arguments.media, arguments.runs)
    if arguments.json:
        rows = [asdict(r) | {"wall_ratio": r.wall_ratio, "cpu_ratio": r.cpu_ratio} for r in results]
        print(json.dumps(rows, indent=1))
    else:
        print_table(results)
    return int(any(result.wall_ratio > 1 or not result.is_equal for result in results))


if __name__ == "__main__":
    sys.exit(main())
