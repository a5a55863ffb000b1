"""Add Vicuna's delta to LLaMA: the decoder of the legacy checkpoints, written shard by shard.

Vicuna v0 has one token more than LLaMA, ``[PAD]``: rows that only the delta has are copied. Source: the reference's
apply_delta.py, which loads both models into memory; the sums are the same, in the delta's data type.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path

from torch import Tensor

from video_llama.checkpoints.files import StoredTensor, opened, scan
from video_llama.checkpoints.keys import IGNORED
from video_llama.checkpoints.safetensors_writer import MAX_SHARD_BYTES, TensorSpec, write_shards
from video_llama.errors import CheckpointError
from video_llama.files import new_folder
from video_llama.log import progress

TOKEN_TABLES = ("model.embed_tokens.weight", "lm_head.weight")
COPIED = (
    "config.json",
    "generation_config.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
)
"""Files copied from the delta's folder; ``tokenizer.model`` is copied from the base if the delta has none."""

Stored = Mapping[str, StoredTensor]


def apply_delta(
    base: str | Path, delta: str | Path, target: str | Path, *, max_shard_bytes: int = MAX_SHARD_BYTES
) -> Path:
    """Write the decoder folder ``target``, in which every tensor is the sum of those of ``base`` and ``delta``.

    ``base`` and ``delta`` are folders in Hugging Face's layout. Raises CheckpointError, before anything is written, if
    their tensors differ in name or shape, or if ``target`` exists.
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
            f"{base} and {delta} differ in {len(differing)} tensor names, such as {differing[0]}. Give a LLaMA of the "
            "same size as the delta."
        )
    for name, tensor in delta_tensors.items():
        base_shape, delta_shape = base_tensors[name].shape, tensor.shape
        may_grow = name in TOKEN_TABLES and base_shape[1:] == delta_shape[1:] and base_shape[0] <= delta_shape[0]
        if base_shape != delta_shape and not may_grow:
            raise CheckpointError(
                f"{name} is {list(base_shape)} in {base}, but {list(delta_shape)} in {delta}. Give a LLaMA of the same "
                "size as the delta."
            )


def _sums(names: list[str], base: Stored, delta: Stored) -> Iterator[tuple[str, Tensor]]:
    """Yield the sums of the named tensors. At most one file of ``base`` and one of ``delta`` are mapped at a time."""
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
    missing = [name for name in ("config.json", "tokenizer.model") if not (target / name).is_file()]
    if missing:
        raise CheckpointError(f"{delta} has no {' and no '.join(missing)}. Copy the complete folder of the delta.")
