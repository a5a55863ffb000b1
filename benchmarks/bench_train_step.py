"""Training speed of each stage, the parts of a step, and the effect of cached features and background loading.

    python benchmarks/bench_train_step.py [--steps 20] [--clips 64] [--rows 8]
    python benchmarks/bench_train_step.py --dims real --steps 2 --clips 4 --rows 1 [--decoder-layers 2]
        [--tokenizer PATH]

Runs the real trainer with the recipes of the miniature and random weights on generated clips. ``--dims real`` uses the
dimensions of the published 7B model in bfloat16 (17 GB on disk); fewer decoder layers need less. Its clips are those of
the miniature, scaled up: they are cheaper to read than typical videos. A CPU without bfloat16 units computes in fp32,
although the recipes set bf16.

Prints for each stage the samples per second from files, from files read by two background processes, and from cached
features; the share of data, forward, backward and optimizer in a step; and two ratios: cached features to files, and
the time that a step waits for data with two processes and with none.
"""

from __future__ import annotations

import argparse
import json
import logging
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.machine import machine
from video_llama.checkpoints.folder import Manifest, write_model_folder
from video_llama.conversation import Tokenizer
from video_llama.log import logger
from video_llama.miniature.configuration import miniature_config, processor_settings
from video_llama.miniature.dataset import write_dataset
from video_llama.miniature.tokenizer import train_tokenizer
from video_llama.miniature.train import config_path, moved_paths, precision
from video_llama.models.configuration import VideoLlamaConfig
from video_llama.models.video_llama import VideoLlamaForConditionalGeneration
from video_llama.processors.settings import ProcessorSettings
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
PUBLISHED_LAYERS = 32


@dataclass(frozen=True)
class Measured:
    """Rows per second, and seconds per step in each part, without the first steps."""

    samples_per_second: float
    seconds: dict[str, float]


def prepare(root: Path, num_clips: int, tokenizer_path: Path | None, decoder_layers: int | None) -> int:
    """Write clips and a model folder with random weights to the paths of the miniature's recipes.

    Returns the number of its parameters. The dimensions are those of the miniature, or of the published model with
    ``decoder_layers``.
    """
    write_dataset(root / "data", num_clips=num_clips, seed=0, workers=1)
    if tokenizer_path is None:
        tokenizer_path = root / "tokenizer.model"
        train_tokenizer(tokenizer_path, seed=0)
    if decoder_layers is None:
        torch.manual_seed(0)
        model, processing = VideoLlamaForConditionalGeneration(miniature_config()), processor_settings()
    else:
        model, processing = published_model(tokenizer_path, decoder_layers), ProcessorSettings()
    manifest = Manifest("random", untrained_parts=("model.",))
    write_model_folder(root / "base", model, tokenizer_path=tokenizer_path, settings=processing, manifest=manifest)
    return sum(parameter.numel() for parameter in model.parameters())


def published_model(tokenizer_path: Path, decoder_layers: int) -> VideoLlamaForConditionalGeneration:
    """Return Video-LLaMA-2 7B with a number of decoder layers and random numbers in bfloat16."""
    tokenizer = Tokenizer(tokenizer_path)
    config = VideoLlamaConfig(
        text_config={"vocab_size": tokenizer.vocab_size, "num_hidden_layers": decoder_layers},
        with_imagebind_vision=True,
        video_token_id=tokenizer.video_token_id,
        audio_token_id=tokenizer.audio_token_id,
        prompt_template="default",
        dtype="bfloat16",
    )
    with torch.device("meta"):  # transformers' initialisation would take minutes
        model = VideoLlamaForConditionalGeneration(config).to(torch.bfloat16)
    model.to_empty(device="cpu")
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:  # weights of norms, and biases
                parameter.fill_(1.0)
            else:
                parameter.normal_(std=0.02, generator=generator)
    return model


def measure(
    root: Path,
    stage: str,
    variant: str,
    steps: int,
    rows: int,
    device: str,
    *,
    cached: bool,
    readers: int,
    processes: int = 1,
) -> Measured:
    """Run some steps of a stage, in this process or with torchrun, and read its metrics.jsonl."""
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
        f"run.device={device}",
        *precision(torch.device(device)),
    ]
    if processes == 1:
        train_from_config(config_path(stage), overrides)
    else:
        run_processes(stage, overrides, processes)
    lines = (output / "metrics.jsonl").read_text(encoding="utf-8").splitlines()[min(WARM_UP_STEPS, steps - 1) :]
    seconds = [json.loads(line)["seconds"] for line in lines]
    mean = {part: sum(each[part] for each in seconds) / len(seconds) for part in PARTS}
    return Measured(processes * rows / sum(mean.values()), mean)


def run_processes(stage: str, overrides: Sequence[str], processes: int) -> None:
    """Train a stage with several processes of this machine."""
    torchrun = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
    settings = [text for override in overrides for text in ("--set", override)]
    command = [sys.executable, *torchrun, "-m", "video_llama", "train", str(config_path(stage)), *settings]
    run = subprocess.run(command, capture_output=True, text=True)
    if run.returncode != 0:
        raise SystemExit(f"training with {processes} processes failed:\n{run.stderr[-2000:]}")


def measure_stage(
    root: Path, stage: str, steps: int, rows: int, device: str, processes: Sequence[int]
) -> dict[str, Measured]:
    """Measure a stage from files, with background loading, and from cached features with one and more processes."""
    variants = [("files", False, 0), (f"files, {READERS} readers", False, READERS), ("cached features", True, 0)]
    measured = {
        name: measure(root, stage, str(number), steps, rows, device, cached=cached, readers=readers)
        for number, (name, cached, readers) in enumerate(variants)
    }
    for count in processes:
        measured[f"cached, {count} processes"] = measure(
            root, stage, f"p{count}", steps, rows, device, cached=True, readers=0, processes=count
        )
    return measured


def show(stage: str, found: dict[str, Measured]) -> None:
    """Print the figures and ratios of a stage."""
    print(stage)
    for name, each in found.items():
        whole = sum(each.seconds.values())
        shares = "  ".join(f"{part} {100 * each.seconds[part] / whole:3.0f} %" for part in PARTS)
        print(f"  {name:22} {each.samples_per_second:8.4g} samples/s   {shares}")
    cached, files, ahead = found["cached features"], found["files"], found[f"files, {READERS} readers"]
    print(f"  cached / files         {cached.samples_per_second / files.samples_per_second:8.2f} x")
    for name, each in found.items():
        if name.startswith("cached, "):
            print(f"  {name} / one {each.samples_per_second / cached.samples_per_second:6.2f} x")
    print(f"  wait, read ahead / not {ahead.seconds['data'] / files.seconds['data']:8.2f} x")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=20, help="steps of each run; up to 3 are for warm-up")
    parser.add_argument("--clips", type=int, default=64)
    parser.add_argument("--rows", type=int, default=8, help="batch size")
    parser.add_argument(
        "--processes", type=int, nargs="*", default=[], help="numbers of processes to compare, such as 2"
    )
    parser.add_argument("--stages", nargs="+", choices=STAGES, default=STAGES)
    parser.add_argument("--dims", choices=("miniature", "real"), default="miniature")
    parser.add_argument("--decoder-layers", type=int, default=PUBLISHED_LAYERS, help="decoder layers with --dims real")
    parser.add_argument(
        "--tokenizer", type=Path, help="LLaMA's tokenizer.model, for its vocabulary size (default: the miniature's)"
    )
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--scratch", type=Path, help="folder for weights and clips (default: a temporary folder)")
    arguments = parser.parse_args()
    logger.setLevel(logging.ERROR)  # the random base model is intended
    layers = arguments.decoder_layers if arguments.dims == "real" else None
    with tempfile.TemporaryDirectory(dir=arguments.scratch) as folder:
        root = Path(folder)
        num_parameters = prepare(root, arguments.clips, arguments.tokenizer, layers)
        print(machine())
        print(
            f"torch {torch.__version__}, {torch.get_num_threads()} threads, {arguments.device}, {arguments.rows} rows "
            f"a batch, {arguments.steps} steps, {arguments.dims} dimensions: {num_parameters / 1e6:.1f} M parameters"
        )
        if layers is not None and layers != PUBLISHED_LAYERS:
            print(f"NOT the 7B model: {layers} of its {PUBLISHED_LAYERS} decoder layers")
        for stage in arguments.stages:
            show(
                stage,
                measure_stage(root, stage, arguments.steps, arguments.rows, arguments.device, arguments.processes),
            )


if __name__ == "__main__":
    main()
