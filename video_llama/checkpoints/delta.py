"""Vicuna's delta plus LLaMA: the decoder of the legacy checkpoints, written shard by shard.

Vicuna v0 has one word more than LLaMA, ``[PAD]``: where the delta has more rows, LLaMA's missing ones count as zero.
Source: the reference's apply_delta.py, which holds both models in memory; the sum is the same, in the delta's type.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path

from torch import Tensor

from video_llama.checkpoints.files import StoredTensor, opened, scan
from video_llama.checkpoints.keys import IGNORED
from video_llama.checkpoints.shards import MAX_SHARD_BYTES, TensorSpec, write_shards
from video_llama.errors import CheckpointError
from video_llama.files import new_folder
from video_llama.log import progress

WORD_TABLES = ("model.embed_tokens.weight", "lm_head.weight")
COPIED = (
    "config.json",
    "generation_config.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
)
"""Taken from the delta's folder; ``tokenizer.model`` from the base where the delta has none."""

Stored = Mapping[str, StoredTensor]


def apply_delta(
    base: str | Path, delta: str | Path, target: str | Path, *, max_shard_bytes: int = MAX_SHARD_BYTES
) -> Path:
    """Write the decoder folder ``target``: every tensor of ``delta`` plus that of ``base``.

    Both are folders in Hugging Face's layout. Raises CheckpointError, before anything is written, unless both hold the
    same tensors of the same shapes, and for a target that is there.
    """
    base, delta, target = Path(base), Path(delta), Path(target)
    base_tensors, delta_tensors = _weights(base), _weights(delta)
    _check_same(base, base_tensors, delta, delta_tensors)
    if target.exists():
        raise CheckpointError(f"{target} exists. Choose another name, or remove it first.")
    specs = {name: TensorSpec(tensor.shape, tensor.dtype) for name, tensor in delta_tensors.items()}
    with new_folder(target) as unfinished:
        written = write_shards(
            unfinished, specs, lambda names: _sums(names, base_tensors, delta_tensors), max_shard_bytes
        )
        for _ in progress(written, "adding the delta", len(specs)):
            pass
        _copy_files(base, delta, unfinished)
    return target


def _weights(folder: Path) -> dict[str, StoredTensor]:
    return {name: tensor for name, tensor in scan(folder).items() if not IGNORED.match(name)}


def _check_same(base: Path, base_tensors: Stored, delta: Path, delta_tensors: Stored) -> None:
    differing = sorted(base_tensors.keys() ^ delta_tensors.keys())
    if differing:
        raise CheckpointError(
            f"{base} and {delta} differ in {len(differing)} names, such as {differing[0]}. Give the LLaMA of the size "
            "that the delta is for."
        )
    for name, tensor in delta_tensors.items():
        own, wanted = base_tensors[name].shape, tensor.shape
        may_grow = name in WORD_TABLES and own[1:] == wanted[1:] and own[0] <= wanted[0]
        if own != wanted and not may_grow:
            raise CheckpointError(
                f"{name} is {list(own)} in {base} and {list(wanted)} in {delta}. Give the LLaMA of the size that the "
                "delta is for."
            )


def _sums(names: list[str], base: Stored, delta: Stored) -> Iterator[tuple[str, Tensor]]:
    """The sums of some tensors; at most one file of either side is mapped at a time."""
    by_files: dict[tuple[Path, Path], list[str]] = {}
    for name in names:
        by_files.setdefault((base[name].file, delta[name].file), []).append(name)
    for files, group in by_files.items():
        with ExitStack() as stack:
            own, added = (stack.enter_context(opened(file)) for file in files)
            for name in group:
                total = added[name].clone()
                total[: own[name].shape[0]] += own[name].to(total.dtype)
                yield name, total


def _copy_files(base: Path, delta: Path, target: Path) -> None:
    for name in COPIED:
        found = next((folder / name for folder in (delta, base) if (folder / name).is_file()), None)
        if found is not None and (found.parent == delta or name == "tokenizer.model"):
            shutil.copyfile(found, target / name)
    lacking = [name for name in ("config.json", "tokenizer.model") if not (target / name).is_file()]
    if lacking:
        raise CheckpointError(f"{delta} has no {' and no '.join(lacking)}. Copy the whole folder of the delta.")
