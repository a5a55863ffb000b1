"""Convert and load the published 7B layout at full size with random numbers: time, memory and disk space.

    python benchmarks/bench_convert.py SCRATCH [--steps convert back load] [--keep]

Names, shapes and dtypes are those of golden's full_keys.json (7B); the ViT includes its 40th block, ImageBind its two
used trunks. One row of normal numbers is repeated in each tensor, because generating nine billion numbers would take
longer than the measured steps. The baseline of the times is reading the published files once. Needs about 55 GB of disk
space and LLaMA's tokenizer, named by VIDEO_LLAMA_TOKENIZER.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.machine import machine
from benchmarks.measuring import random_tensor, read_seconds
from video_llama.checkpoints.files import opened, scan
from video_llama.checkpoints.keys import IGNORED
from video_llama.checkpoints.safetensors_writer import TensorSpec, write_shards

REPOSITORY = Path(__file__).resolve().parent.parent
FULL_KEYS = REPOSITORY / "tests" / "golden" / "full_keys.json.gz"
BRANCHES = {
    "VL_LLaMA_2_7B_Finetuned.pth": ("video_", "llama_proj."),
    "AL_LLaMA_2_7B_Finetuned.pth": ("audio_Qformer.", "audio_query_tokens", "audio_position_", "audio_llama_proj."),
}
DECODER = "llama-2-7b-chat-hf"
MEASURED = """
import sys, time
start = time.perf_counter()
{work}
seconds = time.perf_counter() - start
status = dict(line.split(":", 1) for line in open("/proc/self/status"))
peak, own = (int(status[key].split()[0]) / 1e6 for key in ("VmHWM", "VmRSS"))
print(seconds, peak, own)
"""
STEPS = {
    "convert": "from video_llama.checkpoints.convert import convert; convert(sys.argv[1], sys.argv[2])",
    "back": "from video_llama.checkpoints.export import export_to_reference as export; export(*sys.argv[2:4])",
    "load": "from video_llama.chat import read_model_folder; folder = read_model_folder(sys.argv[2])",
}
"""The measured steps. Each runs in a separate process; imports are included."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("scratch", type=Path, help="folder with 55 GB of free space")
    parser.add_argument("--steps", nargs="+", choices=list(STEPS), default=list(STEPS))
    parser.add_argument("--keep", action="store_true", help="keep the folders")
    arguments = parser.parse_args()
    source, target, back = (arguments.scratch / name for name in ("published", "converted", "back"))
    if not source.exists():
        write_published(source)
    size, files = disk_gb(source), [path for path in source.rglob("*.*") if path.is_file()]
    baseline = read_seconds(files)
    print(machine())
    print(f"published: {size:.1f} GB in {len(files)} files; baseline: reading them once takes {baseline:.0f} s")
    for name in arguments.steps:
        command = [sys.executable, "-c", MEASURED.format(work=STEPS[name]), *map(str, (source, target, back))]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        seconds, peak, own = map(float, done.stdout.split())
        print(
            f"{name}: {seconds / baseline:.2f} x reading ({seconds:.0f} s), peak memory {peak / size:.2f} x the files "
            f"({peak:.2f} GB), {own:.2f} GB at the end"
        )
    print(f"converted: {disk_gb(target):.1f} GB")
    if back.exists():
        print(f"tensors that differ after converting back: {count_changed(source, back)}")
    if not arguments.keep:
        for folder in (source, target, back):
            shutil.rmtree(folder, ignore_errors=True)


def count_changed(source: Path, back: Path) -> int:
    """Return the tensors of ``back`` that differ from those of ``source`` in any bit, file by file."""
    changed = 0
    for path in (path for path in back.iterdir() if path.suffix == ".pth" or path.is_dir()):
        before, after = scan(source / path.name), scan(path)
        for file, name in [(tensor.file, name) for name, tensor in after.items()]:
            with opened(before[name].file) as old, opened(file) as new:
                changed += not torch.equal(old[name], new[name])
    return changed


def write_published(folder: Path) -> None:
    """Write the files of Video-LLaMA-2-7B-Finetuned in the published layout."""
    model = json.loads(gzip.decompress(FULL_KEYS.read_bytes()))["models"]["llama_7b"]
    specs = {
        name: TensorSpec(tuple(shape), getattr(torch, dtype))
        for name, (shape, dtype, _) in model["keys"].items()
        if not IGNORED.match(name)
    }
    folder.mkdir(parents=True)
    save(folder / "imagebind_huge.pth", below(specs, "audio_encoder."))
    vit = below(specs, "visual_encoder.")
    last = {name.replace(".38.", ".39."): spec for name, spec in vit.items() if name.startswith("blocks.38.")}
    save(folder / "eva_vit_g.pth", vit | last)
    blip2 = {name: spec for name, spec in specs.items() if name.startswith(("Qformer.", "query_tokens", "ln_vision."))}
    save(folder / "blip2_pretrained_flant5xxl.pth", blip2, wrapped=True)
    for file, prefixes in BRANCHES.items():
        save(folder / file, {name: spec for name, spec in specs.items() if name.startswith(prefixes)}, wrapped=True)
    write_decoder(folder / DECODER, below(specs, "llama_model."), model["llama_config"])


def below(specs: dict[str, TensorSpec], prefix: str) -> dict[str, TensorSpec]:
    return {name.removeprefix(prefix): spec for name, spec in specs.items() if name.startswith(prefix)}


def save(path: Path, specs: dict[str, TensorSpec], *, wrapped: bool = False) -> None:
    tensors = {name: random_tensor(spec) for name, spec in specs.items()}
    torch.save({"model": tensors} if wrapped else tensors, path)


def write_decoder(folder: Path, specs: dict[str, TensorSpec], config: dict[str, int]) -> None:
    folder.mkdir()

    def read(names: list[str]) -> Iterator[tuple[str, Tensor]]:
        for name in names:
            yield name, random_tensor(specs[name])

    for _ in write_shards(folder, specs, read, 10_000_000_000):
        pass
    (folder / "config.json").write_text(json.dumps(config | {"model_type": "llama"}), encoding="utf-8")
    shutil.copyfile(os.environ["VIDEO_LLAMA_TOKENIZER"], folder / "tokenizer.model")


def disk_gb(folder: Path) -> float:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 1e9


if __name__ == "__main__":
    main()
