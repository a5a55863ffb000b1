"""How fast each stage trains, where a step's time goes, and what cached features and reading ahead are worth.

    python benchmarks/bench_train_step.py [--steps 20] [--clips 64] [--rows 8]

Runs the real trainer, with the miniature's recipes and dimensions and random weights, on clips made here. Prints for
each stage the samples per second from files, from files that two processes read ahead, and from cached features; the
share of data, forward, backward and optimiser in a step; and two ratios: cached against files (the epoch-time ratio),
and the time that a step waits for data with two readers against none.
"""

from __future__ import annotations

import argparse
import json
import logging
import tempfile
from dataclasses import dataclass
from pathlib import Path

import torch

from video_llama.chat.folder import Manifest, write_model_folder
from video_llama.log import logger
from video_llama.miniature.assemble import settings
from video_llama.miniature.dataset import write_dataset
from video_llama.miniature.recipe import miniature_config
from video_llama.miniature.tokenizer import train_tokenizer
from video_llama.miniature.train import config_path, moved_paths
from video_llama.models.video_llama import VideoLlamaForConditionalGeneration
from video_llama.training.run import train_from_config

STAGES = (
    "visionbranch_stage1_pretrain",
    "visionbranch_stage2_finetune",
    "audiobranch_stage1_pretrain",
    "audiobranch_stage2_finetune",
)
PARTS = ("data", "forward", "backward", "optimizer")
WARM_UP_STEPS = 3
READERS = 2


@dataclass(frozen=True)
class Measured:
    """Rows per second, and seconds per step in each part, over the steps after the first few."""

    samples_per_second: float
    seconds: dict[str, float]


def prepare(root: Path, num_clips: int) -> None:
    """Clips and a model folder of the miniature's dimensions with random weights, where its recipes look for them."""
    write_dataset(root / "data", num_clips=num_clips, seed=0, workers=1)
    train_tokenizer(root / "tokenizer.model", seed=0)
    torch.manual_seed(0)
    model = VideoLlamaForConditionalGeneration(miniature_config())
    manifest = Manifest("random", untrained_parts=("model.",))
    tokenizer_path = root / "tokenizer.model"
    write_model_folder(root / "base", model, tokenizer_path=tokenizer_path, settings=settings(), manifest=manifest)


def measure(root: Path, stage: str, variant: str, steps: int, rows: int, *, cached: bool, readers: int) -> Measured:
    """Take some steps of a stage and read its metrics.jsonl."""
    output = root / f"{stage}_{variant}"
    overrides = [
        *moved_paths(stage, root),
        'model.ckpt=""',
        f"run.output_dir={output}",
        f"run.cache_features={str(cached).lower()}",
        f"run.num_workers={readers}",
        f"run.batch_size_train={rows}",
        f"run.iters_per_epoch={steps}",
        "run.save_every_steps=null",
    ]
    train_from_config(config_path(stage), overrides)
    lines = (output / "metrics.jsonl").read_text(encoding="utf-8").splitlines()[WARM_UP_STEPS:]
    seconds = [json.loads(line)["seconds"] for line in lines]
    mean = {part: sum(each[part] for each in seconds) / len(seconds) for part in PARTS}
    return Measured(rows / sum(mean.values()), mean)


def show(stage: str, found: dict[str, Measured]) -> None:
    """The stage's figures and ratios."""
    print(stage)
    for name, each in found.items():
        whole = sum(each.seconds.values())
        shares = "  ".join(f"{part} {100 * each.seconds[part] / whole:3.0f} %" for part in PARTS)
        print(f"  {name:22} {each.samples_per_second:8.1f} samples/s   {shares}")
    cached, files, ahead = found["cached features"], found["files"], found[f"files, {READERS} readers"]
    print(f"  cached / files         {cached.samples_per_second / files.samples_per_second:8.2f} x")
    print(f"  wait, read ahead / not {ahead.seconds['data'] / files.seconds['data']:8.2f} x")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=20, help="steps of each run, the first few not counted")
    parser.add_argument("--clips", type=int, default=64)
    parser.add_argument("--rows", type=int, default=8, help="rows of a batch")
    arguments = parser.parse_args()
    logger.setLevel(logging.ERROR)  # the random base is meant
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {arguments.rows} rows a batch")
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        prepare(root, arguments.clips)
        for stage in STAGES:
            found = {
                name: measure(root, stage, str(number), arguments.steps, arguments.rows, cached=cached, readers=readers)
                for number, (name, cached, readers) in enumerate(
                    [("files", False, 0), (f"files, {READERS} readers", False, READERS), ("cached features", True, 0)]
                )
            }
            show(stage, found)


if __name__ == "__main__":
    main()
