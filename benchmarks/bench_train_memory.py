"""The predicted memory of training: compared with real steps on the CPU, and a table of the published recipes.

    python benchmarks/bench_train_memory.py compare [--tokens 256] [--models miniature mid-sized] [--trained LoRA ...]
    python benchmarks/bench_train_memory.py recipes [--sizes 7b 13b] [--recipes NAME ...] [--out recipes.json]

``compare`` runs steps of the miniature's recipe and of a model of 0.6 billion parameters (mid_size_model.py), in one
process and in two (gloo), and compares the rise of the resident memory of a process (train_step_memory.py) with the
prediction. It needs 8 GB of memory for each process. ``recipes`` only predicts: the four recipes of train_configs/ at
the published sizes with LoRA, QLoRA and full training of the decoder, on 1 and on 8 GPUs. It writes each row to
``--out`` as soon as it is there and continues a file that exists.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import yaml

os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # DDP warns that it cannot time the simulated device

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.machine import machine
from benchmarks.mid_size_model import TOKENIZER, write_folder
from video_llama.training.dry_run import USABLE_SHARE, DryRunOptions, dry_run_from_config

ROOT = Path(__file__).resolve().parent.parent
RECIPES = (
    "visionbranch_stage1_pretrain",
    "visionbranch_stage2_finetune",
    "audiobranch_stage1_pretrain",
    "audiobranch_stage2_finetune",
)
DECODER: dict[str, tuple[str, ...]] = {
    "LoRA": ("model.lora.r=8",),
    "QLoRA": ("model.lora.r=8", "model.quantization=int4"),
    "full": ("model.freeze_llama=false",),
}
"""How the decoder is trained beside the recipe's own parts."""
GPUS = ((1, 24), (1, 80), (8, 80))
"""Number of GPUs and memory of each in GB."""
LAUNCHES = (("ddp", 1), ("ddp", 2), ("fsdp2", 2))
CHANGES: dict[str, tuple[str, ...]] = {"Q-Former": (), **{key: DECODER[key] for key in ("LoRA", "full")}}
HEAP = {"MALLOC_MMAP_THRESHOLD_": str(2**16), "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
"""The C library returns freed blocks, so that the resident memory is what is in use (tests/models/test_memory.py)."""


def run_yaml(folder: Path, pretrained: Path, rows: int) -> Path:
    """Write a YAML of instruction data that does not exist, and return its path."""
    content = {
        "model": {"pretrained": str(pretrained), "frozen_llama_proj": False, "frozen_video_Qformer": False},
        "datasets": {"own": {"format": "webvid_instruct"}},
        "run": {"output_dir": str(folder / "run"), "batch_size_train": rows, "device": "cpu"},
    }
    path = folder / f"{pretrained.name}.yaml"
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    return path


def measured_step(path: Path, overrides: list[str], processes: int, tokens: int) -> int:
    """Return the memory of a real step in bytes."""
    launch = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"] if processes > 1 else []
    changes = [part for each in overrides for part in ("--set", each)]
    script = [str(ROOT / "benchmarks" / "train_step_memory.py"), str(path), "--tokens", str(tokens)]
    command = [sys.executable, *launch, *script, *changes]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=os.environ | HEAP)
    return int(json.loads(done.stdout.splitlines()[-1])["step"])


def compare(tokens: int, names: list[str], changes: list[str]) -> None:
    """Print predicted and measured memory for each model, training and launch."""
    print(machine())
    print("| model | trained | processes | predicted | measured | predicted / measured |\n|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        models = {"miniature": (TOKENIZER.parent, 32), "mid-sized": (write_folder(folder / "mid"), 2)}
        for model in names:
            pretrained, rows = models[model]
            path = run_yaml(folder, pretrained, rows)
            for change in changes:
                overrides = CHANGES[change]
                for mode, processes in LAUNCHES:
                    settings = [*overrides, f"run.distributed_mode={mode}"]
                    options = DryRunOptions(processes, num_tokens=tokens)
                    predicted = dry_run_from_config(path, settings, options).largest.peak
                    real = measured_step(path, settings, processes, tokens)
                    sizes = f"{predicted / 1e6:.0f} MB | {real / 1e6:.0f} MB | {predicted / real:.3f}"
                    print(f"| {model} | {change} | {processes} {mode} | {sizes} |", flush=True)


def predict_recipe(recipe: str, size: str, training: str, world_size: int) -> dict[str, Any]:
    """Return a row: the settings, the command and the predicted memory in bytes."""
    path = ROOT / "train_configs" / f"{recipe}.yaml"
    is_sharded = training == "full" and world_size > 1
    overrides = [*DECODER[training], *(["run.distributed_mode=fsdp2"] if is_sharded else [])]
    changes = " ".join(f"--set {each}" for each in overrides)
    command = (
        f"video-llama train train_configs/{recipe}.yaml --dry-run --size {size} --world-size {world_size} {changes}"
    )
    result = dry_run_from_config(path, overrides, DryRunOptions(world_size, size=size))
    peak = {"peak": result.peak, "setup": result.setup, "at_peak": result.largest.at_peak}
    return {"recipe": recipe, "size": size, "training": training, "gpus": world_size, "command": command, **peak}


def recipes(sizes: list[str], names: list[str], out: Path) -> None:
    """Predict the rows that ``out`` does not have yet, keep them there, and print the table."""
    rows: list[dict[str, Any]] = json.loads(out.read_text(encoding="utf-8")) if out.exists() else []
    for size in sizes:
        for recipe in names:
            for training in DECODER:
                for world_size in sorted({number for number, _ in GPUS}):
                    key = (recipe, size, training, world_size)
                    if all(key != (row["recipe"], row["size"], row["training"], row["gpus"]) for row in rows):
                        rows.append(predict_recipe(*key))
                        out.write_text(json.dumps(rows, indent=1), encoding="utf-8")
                        print(*key, f"{rows[-1]['peak'] / 1e9:.1f} GB", file=sys.stderr, flush=True)
    print(recipe_table(rows))


def recipe_table(rows: list[dict[str, Any]]) -> str:
    """Return the table: the predicted peak on 1 and on 8 GPUs, whether it fits, and the command of 1 GPU."""
    heads = ["recipe", "size", "decoder", "1 GPU", *(f"{number} x {memory} GB" for number, memory in GPUS[:2])]
    heads += [f"{GPUS[2][0]} GPUs", f"{GPUS[2][0]} x {GPUS[2][1]} GB", "command"]
    lines = [f"| {' | '.join(heads)} |", "|" + "---|" * len(heads)]
    found = {(row["recipe"], row["size"], row["training"], row["gpus"]): row for row in rows}
    for recipe, size, training in dict.fromkeys(key[:3] for key in found):
        one, eight = (found[recipe, size, training, number]["peak"] for number in (1, 8))
        command = found[recipe, size, training, 1]["command"].replace(" --world-size 1", "")
        cells = [recipe, size, training, gigabytes(one), *(fits(one, memory) for _, memory in GPUS[:2])]
        cells += [gigabytes(eight), fits(eight, GPUS[2][1]), f"`{command}`"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def gigabytes(size: int) -> str:
    return f"{size / 1e9:.1f} GB"


def fits(size: int, memory: int) -> str:
    return "fits" if size <= USABLE_SHARE * memory * 1e9 else "no"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("compare", "recipes"))
    parser.add_argument("--tokens", type=int, default=256)
    parser.add_argument("--models", nargs="+", default=["miniature", "mid-sized"])
    parser.add_argument("--trained", nargs="+", default=list(CHANGES), choices=list(CHANGES))
    parser.add_argument("--sizes", nargs="+", default=["7b", "13b"])
    parser.add_argument("--recipes", nargs="+", default=RECIPES, choices=RECIPES, metavar="NAME")
    parser.add_argument("--out", type=Path, default=Path("recipes.json"))
    arguments = parser.parse_args()
    if arguments.what == "compare":
        compare(arguments.tokens, arguments.models, arguments.trained)
    else:
        recipes(arguments.sizes, arguments.recipes, arguments.out)


if __name__ == "__main__":
    main()
