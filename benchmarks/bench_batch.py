"""Clips per second of `video-llama batch`: one by one, and with one and two workers, on generated clips.

    python benchmarks/bench_batch.py [--model miniature] [--clips 64] [--batch-size 8]

"one by one" is `ask` in a loop with a loaded model: each clip is read, encoded and answered before the next. The time
of a batch run is that of its summary, from the loaded model to the last row; it includes the start of the decoding
processes.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.machine import machine
from video_llama.apps.batch.inputs import BatchInput
from video_llama.apps.batch.run import BatchRunConfig, run_batch
from video_llama.chat import Decoding, MediaOptions
from video_llama.cli.evaluate import load_for_worker
from video_llama.cli.options import ModelOptions
from video_llama.miniature.dataset import write_dataset
from video_llama.processors.sampling import FrameSampling

QUESTION = "What happens in the video?"
DECODING = Decoding(max_new_tokens=32)


def default_media(num_frames: int) -> MediaOptions:
    """Return how the clips are read."""
    return MediaOptions(FrameSampling(num_frames))


def one_by_one(model: ModelOptions, clips: Path) -> float:
    """Return the clips per second of a loop over the clips."""
    assistant = model.load()
    rows = list(BatchInput(str(clips), QUESTION).rows())
    start = time.perf_counter()
    for row in rows:
        assistant.chat(row.media[0]).ask(QUESTION, DECODING)
    return len(rows) / (time.perf_counter() - start)


def main() -> None:
    """Print one line per way of running."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="miniature")
    parser.add_argument("--clips", type=int, default=64)
    parser.add_argument("--batch-size", type=int, default=8)
    arguments = parser.parse_args()
    model = ModelOptions(model=arguments.model)
    print(machine())
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_dataset(folder / "data", num_clips=arguments.clips, seed=0, workers=1)
        clips = folder / "data" / "videos"
        print(f"one by one   {one_by_one(model, clips):6.2f} clips/s")
        for workers in (1, 2):
            config = BatchRunConfig(
                BatchInput(str(clips), QUESTION),
                folder / f"{workers}.jsonl",
                default_media,
                DECODING,
                arguments.batch_size,
                workers,
            )
            summary = run_batch(config, partial(load_for_worker, model))
            stages = ", ".join(f"{stage} {seconds:.1f} s" for stage, seconds in summary["stages"].items())
            print(f"{workers} worker(s)  {summary['media_per_second']:6.2f} clips/s ({stages}; {summary['bound']})")


if __name__ == "__main__":
    main()
