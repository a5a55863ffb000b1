"""Write safetensors files with one tensor in memory at a time.

The format is the length of the header, a JSON header with the position of each tensor, and the values
(github.com/huggingface/safetensors). The library's own writer needs all tensors of a file at once. Here, shapes are
known before values, so the header is written first, and each tensor when it is read.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import BinaryIO, TypeVar

import torch
from torch import Tensor

from video_llama.checkpoints.files import INDEX_FILE, WEIGHTS_FILE, Shape, dtype_code

MAX_SHARD_BYTES = 2_000_000_000
"""Largest size of a file, except for a file with a single larger tensor."""

_ALIGNMENT = 8

Key = TypeVar("Key")


@dataclass(frozen=True)
class TensorSpec:
    """Shape and data type of a tensor to be written."""

    shape: Shape
    dtype: torch.dtype

    @property
    def num_bytes(self) -> int:
        """Size of the values in bytes."""
        return prod(self.shape) * self.dtype.itemsize


def write_shards(
    folder: Path,
    specs: Mapping[str, TensorSpec],
    read: Callable[[list[str]], Iterable[tuple[str, Tensor]]],
    max_shard_bytes: int = MAX_SHARD_BYTES,
) -> Iterator[str]:
    """Write tensors into ``folder`` as model.safetensors, or as shards with an index; yield each name when written.

    ``read`` returns the values of the given names, in any order, with the shapes and data types of ``specs``. Nothing
    is written until the result is iterated.
    """
    groups = split_by_size({name: spec.num_bytes for name, spec in specs.items()}, max_shard_bytes)
    files = [WEIGHTS_FILE] if len(groups) == 1 else [_shard_name(i, len(groups)) for i in range(1, len(groups) + 1)]
    for file, names in zip(files, groups, strict=True):
        yield from _write_file(folder / file, {name: specs[name] for name in names}, read(names))
    if len(files) > 1:
        weight_map = {name: file for file, names in zip(files, groups, strict=True) for name in names}
        total = sum(spec.num_bytes for spec in specs.values())
        index = {"metadata": {"total_size": total}, "weight_map": weight_map}
        (folder / INDEX_FILE).write_text(json.dumps(index, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def split_by_size(sizes: Mapping[Key, int], limit: int) -> list[list[Key]]:
    """Split keys, in order, into groups of at most ``limit`` bytes; a larger item has a group of its own."""
    groups: list[list[Key]] = [[]]
    total = 0
    for key, size in sizes.items():
        if groups[-1] and total + size > limit:
            groups.append([])
            total = 0
        groups[-1].append(key)
        total += size
    return groups


def _write_file(path: Path, specs: Mapping[str, TensorSpec], values: Iterable[tuple[str, Tensor]]) -> Iterator[str]:
    # Wide types first, so that every tensor is aligned to its element size.
    ordered = sorted(specs, key=lambda name: (-specs[name].dtype.itemsize, name))
    offsets, header = _header(ordered, specs)
    written = set()
    with path.open("wb") as file:
        file.write(header)
        for name, tensor in values:
            assert (tuple(tensor.shape), tensor.dtype) == (specs[name].shape, specs[name].dtype), name
            file.seek(len(header) + offsets[name])
            _write_values(file, tensor)
            written.add(name)
            yield name
    assert written == set(specs), "read() returns the requested names"


def _header(ordered: list[str], specs: Mapping[str, TensorSpec]) -> tuple[dict[str, int], bytes]:
    """Return the offset of each tensor after the header, and the header preceded by its length."""
    offsets: dict[str, int] = {}
    entries: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name in ordered:
        spec = specs[name]
        offsets[name], end = end, end + spec.num_bytes
        entries[name] = {
            "dtype": dtype_code(spec.dtype),
            "shape": list(spec.shape),
            "data_offsets": [offsets[name], end],
        }
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % _ALIGNMENT)
    return offsets, len(text).to_bytes(8, "little") + text


def _write_values(file: BinaryIO, tensor: Tensor) -> None:
    file.write(tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().data)


def _shard_name(number: int, count: int) -> str:
    return f"model-{number:05d}-of-{count:05d}.safetensors"
