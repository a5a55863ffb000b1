"""Clips per second of `video-llama batch`, and the seconds of each stage per clip, on generated clips with sound.

    python benchmarks/bench_batch.py [--model miniature|mid-size|MODEL] [--clips 24] [--seconds 30] [--height 720]
        [--ways one local-1 local-2 ray-1] [--json FILE]

"one" is `ask` in a loop with a loaded model: each clip is read, encoded and answered before the next. The time of a
batch run is that of its summary, from the loaded model to the last row; it includes the start of the decoding processes
and, with Ray, of its actors. "mid-size" is a model of 0.6 billion random parameters (benchmarks/mid_size_model.py), for
speed only.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

import av
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.bench_video_decode import FAST, FPS, Clip, make_clip
from benchmarks.machine import machine
from video_llama.apps.batch.engines import EngineOptions
from video_llama.apps.batch.inputs import BatchInput
from video_llama.apps.batch.limits import BatchLimits
from video_llama.apps.batch.run import BatchRunConfig, run_batch
from video_llama.chat import Decoding, MediaOptions
from video_llama.cli.evaluate import load_for_worker
from video_llama.cli.options import ModelOptions
from video_llama.processors.sampling import FrameSampling

QUESTION = "What happens in the video?"
WAYS = ("one", "local-1", "local-2", "ray-1", "ray-2")
SAMPLING_RATE, AUDIO_SAMPLES = 44_100, 1024
OBJECT_STORE_BYTES = 200_000_000
MID_SIZE = "mid-size"


def default_media(num_frames: int) -> MediaOptions:
    """Return how the clips are read."""
    return MediaOptions(FrameSampling(num_frames))


def write_clips(folder: Path, num_clips: int, height: int, seconds: int) -> Path:
    """Write one clip with sound, and links to it under other names, so that each is read."""
    silent = make_clip(Clip("silent", "libx264", height, seconds, FAST), folder)
    clips = folder / "clips"
    clips.mkdir()
    with av.open(str(silent)) as source, av.open(str(clips / "0.mp4"), "w") as target:
        video = target.add_stream_from_template(source.streams.video[0])
        audio = target.add_stream("aac", rate=SAMPLING_RATE, layout="mono")
        for packet in source.demux(video=0):
            if packet.dts is not None:
                packet.stream = video
                target.mux(packet)
        rng = np.random.default_rng(0)
        for start in range(0, seconds * SAMPLING_RATE, AUDIO_SAMPLES):
            noise = rng.normal(0, 0.1, (1, AUDIO_SAMPLES)).astype(np.float32)
            frame = av.AudioFrame.from_ndarray(noise, format="fltp", layout="mono")
            frame.sample_rate, frame.pts = SAMPLING_RATE, start
            target.mux(audio.encode(frame))
        target.mux(audio.encode(None))
    for number in range(1, num_clips):
        (clips / f"{number}.mp4").symlink_to(clips / "0.mp4")
    return clips


def one_by_one(model: ModelOptions, clips: Path, decoding: Decoding) -> dict[str, Any]:
    """Return the summary of a loop over the clips."""
    assistant = model.load()
    rows = list(BatchInput(str(clips), QUESTION).rows())
    stages = {"fetch": 0.0, "decode": 0.0, "encode": 0.0, "generate": 0.0}
    start = time.perf_counter()
    for row in rows:
        seconds = assistant.chat(row.media[0]).ask(QUESTION, decoding).record.seconds
        stages["decode"] += seconds["decode_media"]
        stages["encode"] += seconds["encode_media"]
        stages["generate"] += seconds["prefill"] + seconds["generate"]
    seconds = time.perf_counter() - start
    bound = max(stages, key=lambda name: stages[name])
    return {"seconds": seconds, "media_per_second": len(rows) / seconds, "stages": stages, "bound": bound}


def core_seconds(model: ModelOptions, clip: Path, decoding: Decoding, runs: int = 3) -> dict[str, float]:
    """Return the processor time of each stage for one clip, of all threads: the least of several runs.

    Other jobs change it less than the wall time.
    """
    assistant = model.load()
    found: dict[str, list[float]] = {"read": [], "encode": [], "generate": []}
    for _ in range(runs):
        begin = time.process_time()
        read = assistant.read(clip)
        read_at = time.process_time()
        encoded = assistant.encode(read)
        encoded_at = time.process_time()
        assistant.chat(encoded).ask(QUESTION, decoding)
        found["read"].append(read_at - begin)
        found["encode"].append(encoded_at - read_at)
        found["generate"].append(time.process_time() - encoded_at)
    return {stage: min(seconds) for stage, seconds in found.items()}


def with_batch(way: str, model: ModelOptions, clips: Path, options: argparse.Namespace, output: Path) -> dict[str, Any]:
    """Return the summary of a batch run."""
    engine, _, workers = way.partition("-")
    config = BatchRunConfig(
        BatchInput(str(clips), QUESTION),
        output,
        default_media,
        Decoding(max_new_tokens=options.max_new_tokens),
        options.batch_size,
        int(workers),
        limits=BatchLimits(object_store_bytes=OBJECT_STORE_BYTES if engine == "ray" else None),
        engine=EngineOptions("ray" if engine == "ray" else "local"),
    )
    return run_batch(config, partial(load_for_worker, model))


def main() -> None:
    """Print one line per way of running."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="miniature")
    parser.add_argument("--clips", type=int, default=24)
    parser.add_argument("--seconds", type=int, default=30, help="duration of a clip")
    parser.add_argument("--height", type=int, default=720, help="height of a clip, in pixels (16:9)")
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--max-new-tokens", type=int, default=32)
    parser.add_argument("--ways", nargs="*", choices=WAYS, default=["one", "local-1", "local-2", "ray-1"])
    parser.add_argument("--json", type=Path, help="file for the figures, which benchmarks/plan_scale.py reads")
    options = parser.parse_args()
    print(machine(), f"load {os.getloadavg()[0]:.1f}")
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = ModelOptions(model=options.model, device="cpu")
        if options.model == MID_SIZE:
            import torch

            from benchmarks.mid_size_model import write_random_folder

            model = ModelOptions(model=str(write_random_folder(folder / "model", torch.float32)), device="cpu")
        clips = write_clips(folder, options.clips, options.height, options.seconds)
        size = (clips / "0.mp4").stat().st_size
        print(f"{options.clips} clips of {options.seconds} s, {options.height}p, {FPS} fps, {size / 1e6:.1f} MB each")
        costs = core_seconds(model, clips / "0.mp4", Decoding(max_new_tokens=options.max_new_tokens))
        print("processor time per clip:", ", ".join(f"{stage} {seconds:.2f} s" for stage, seconds in costs.items()))
        for way in options.ways:
            if way == "one":
                summary = one_by_one(model, clips, Decoding(max_new_tokens=options.max_new_tokens))
            else:
                summary = with_batch(way, model, clips, options, folder / f"{way}.jsonl")
            per_clip = {stage: seconds / options.clips for stage, seconds in summary["stages"].items()}
            stages = ", ".join(f"{stage} {seconds:.2f}" for stage, seconds in per_clip.items())
            print(
                f"{way:8} {summary['media_per_second']:6.2f} clips/s in {summary['seconds']:.1f} s; seconds per clip: "
                f"{stages}; bound by {summary['bound']}",
                flush=True,
            )
            found[way] = {"clips_per_second": summary["media_per_second"], "stage_seconds_per_clip": per_clip}
    if options.json:
        settings = {name: getattr(options, name) for name in ("model", "clips", "seconds", "height", "batch_size")}
        settings |= {"max_new_tokens": options.max_new_tokens, "clip_bytes": size, "machine": machine()}
        settings["core_seconds"] = costs
        options.json.write_text(json.dumps({"settings": settings, "ways": found}, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
