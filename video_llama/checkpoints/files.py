"""Read weight files safely: a mapping from names to tensors whose values are read when they are used.

A ``.pth`` or ``.bin`` file is unpickled without running code and memory-mapped, and so is a ``.safetensors`` file. A
folder has Hugging Face's layout: one file, or shards with an index. Files that are not weights are recognized and
named: an empty file, a partial download, a Git LFS pointer, a saved error page, a pickle that contains code.
"""

from __future__ import annotations

import json
import pickle
import re
import sys
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from video_llama.errors import CheckpointError

SAFETENSORS = ".safetensors"
PICKLES = (".pth", ".pt", ".bin")
WEIGHTS_FILE, INDEX_FILE = "model.safetensors", "model.safetensors.index.json"
PICKLED_WEIGHTS_FILE, PICKLED_INDEX_FILE = "pytorch_model.bin", "pytorch_model.bin.index.json"
WRAPPERS = ("model", "state_dict")
"""Keys under which a training checkpoint contains its tensors, next to optimizer, epoch and others."""
BYTES_AT_ONCE = 2**24
"""How much of a file is mapped at a time when its tensors are converted; mapped pages count as the process's memory."""

Shape = tuple[int, ...]

_HEAD_BYTES = 512
_LFS = b"version https://git-lfs.github.com/spec/"
_ZIP = b"PK\x03\x04"
_PICKLE = b"\x80"
_PAGE = re.compile(rb"\s*(<!doctype|<html|<\?xml|<head)", re.IGNORECASE)
_FORBIDDEN = re.compile(r"GLOBAL ([\w.]+)")
_DTYPE_CODES = {
    torch.bool: "BOOL",
    torch.uint8: "U8",
    torch.int8: "I8",
    torch.int16: "I16",
    torch.uint16: "U16",
    torch.int32: "I32",
    torch.uint32: "U32",
    torch.int64: "I64",
    torch.uint64: "U64",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.float32: "F32",
    torch.float64: "F64",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.float8_e5m2: "F8_E5M2",
    torch.complex64: "C64",
}
_CODED_DTYPES = {code: dtype for dtype, code in _DTYPE_CODES.items()}


@dataclass(frozen=True)
class StoredTensor:
    """Location and type of a tensor in a file, known without reading its values."""

    file: Path
    name: str
    """The tensor's name in the file."""
    shape: Shape
    dtype: torch.dtype

    @property
    def num_bytes(self) -> int:
        """Size of the values in bytes."""
        return prod(self.shape) * self.dtype.itemsize


def dtype_code(dtype: torch.dtype) -> str:
    """Return the name of a data type in the safetensors format, such as BF16."""
    return _DTYPE_CODES[dtype]


def weight_files(path: Path, *, safetensors_only: bool = False) -> list[Path]:
    """Return the files that contain the tensors of ``path``: the file itself, or the file or shards of a folder.

    Raises CheckpointError if there are none, if a shard is missing, or if the index names a file outside the folder.
    """
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise CheckpointError(f"{path} does not exist. Give a file of weights, or a folder of them.")
    layouts = [(INDEX_FILE, WEIGHTS_FILE)]
    layouts += [] if safetensors_only else [(PICKLED_INDEX_FILE, PICKLED_WEIGHTS_FILE)]
    for index, _ in layouts:
        if (path / index).is_file():
            return _shards(path / index)
    for _, file in layouts:
        if (path / file).is_file():
            return [path / file]
    expected = ", ".join(name for layout in layouts for name in layout)
    raise CheckpointError(f"{path} contains none of {expected}. Copy the weights there.")


def scan(path: Path, *, safetensors_only: bool = False) -> dict[str, StoredTensor]:
    """Return every tensor of a file or folder by its stored name; no values are read.

    Raises CheckpointError as :func:`weight_files` and :func:`opened` do, and for a name stored in two shards.
    """
    found: dict[str, StoredTensor] = {}
    for file in weight_files(path, safetensors_only=safetensors_only):
        for tensor in _described(file):
            if tensor.name in found:
                other = found[tensor.name].file
                raise CheckpointError(f"{file} and {other} both contain {tensor.name}. Remove one of them.")
            found[tensor.name] = tensor
    return found


def _described(file: Path) -> Iterator[StoredTensor]:
    with opened(file) as tensors:
        if isinstance(tensors, _SafeTensors):
            yield from (tensors.described(name, file) for name in tensors)
        else:
            yield from (StoredTensor(file, name, tuple(each.shape), each.dtype) for name, each in tensors.items())


def read_values(stored: Mapping[str, StoredTensor], *, is_kept: bool = False) -> Iterator[tuple[str, Tensor]]:
    """Yield tensors, each mapped to its file, file by file, under the keys of ``stored``.

    A mapping is released with its last tensor. Tensors that stay in use (``is_kept``) share one mapping per file;
    others are mapped in groups of BYTES_AT_ONCE, so that no pages of converted tensors stay in memory. Raises
    CheckpointError for a file that cannot be read.
    """
    for file, keys in _groups(stored, sys.maxsize if is_kept else BYTES_AT_ONCE):
        with opened(file) as tensors:
            for key in keys:
                yield key, tensors[stored[key].name]


def _groups(stored: Mapping[str, StoredTensor], limit: int) -> Iterator[tuple[Path, list[str]]]:
    group: list[str] = []
    total = 0
    for key, tensor in sorted(stored.items(), key=lambda item: item[1].file):
        if group and (stored[group[0]].file != tensor.file or total + tensor.num_bytes > limit):
            yield stored[group[0]].file, group
            group, total = [], 0
        group.append(key)
        total += tensor.num_bytes
    if group:
        yield stored[group[0]].file, group


@contextmanager
def opened(file: Path) -> Iterator[Mapping[str, Tensor]]:
    """Open one weight file as a mapping of memory-mapped tensors.

    Raises CheckpointError, naming the kind of file, if it does not contain weights. Only ``.pth`` files written before
    PyTorch 1.6, which cannot be mapped, are read into memory.
    """
    _refuse_other_kinds(file)
    if file.suffix == SAFETENSORS:
        with _opened_safetensors(file) as tensors:
            yield tensors
    else:
        yield _tensors_in(_unpickled(file), file)


class _SafeTensors(Mapping[str, Tensor]):
    """An open safetensors file. Each access maps the tensor's pages anew; they belong to the returned tensor."""

    def __init__(self, handle: Any) -> None:
        self._handle = handle
        self._names = dict.fromkeys(handle.keys())

    def described(self, name: str, file: Path) -> StoredTensor:
        """Return a tensor's shape and data type from the header. Raises CheckpointError for unsupported types."""
        header = self._handle.get_slice(name)
        dtype = _CODED_DTYPES.get(header.get_dtype())
        if dtype is None:
            raise CheckpointError(
                f"{file}: {name} has data type {header.get_dtype()}, which is not supported. Convert it to BF16 first."
            )
        return StoredTensor(file, name, tuple(header.get_shape()), dtype)

    def __getitem__(self, name: str) -> Tensor:
        if name not in self._names:
            raise KeyError(name)
        tensor: Tensor = self._handle.get_tensor(name)
        return tensor

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


@contextmanager
def _opened_safetensors(file: Path) -> Iterator[Mapping[str, Tensor]]:
    try:
        handle = safe_open(file, framework="pt")
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            f"{file} is truncated or not a safetensors file ({error}; {_size(file)}). Copy or download it again."
        ) from error
    with handle:
        yield _SafeTensors(handle)


def _unpickled(file: Path) -> Any:
    """Load a ``torch.save`` file without running code, memory-mapped if its format allows it."""
    is_zip = zipfile.is_zipfile(file)
    try:
        return torch.load(file, weights_only=True, mmap=is_zip or None, map_location="cpu")
    except pickle.UnpicklingError as error:
        raise _refused_pickle(file, error) from error
    except (RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        what = (
            "is a zip archive that torch.save did not write"
            if is_zip
            else "is truncated, or was not written by torch.save"
        )
        raise CheckpointError(f"{file} {what} ({_first_line(error)}; {_size(file)}). Download it again.") from error


def _refused_pickle(file: Path, error: Exception) -> CheckpointError:
    forbidden = _FORBIDDEN.search(str(error))
    if forbidden is None:
        return CheckpointError(
            f"{file} is damaged, or was not written by torch.save ({_size(file)}). Download it again."
        )
    return CheckpointError(
        f"{file} was refused: loading it would run code ({forbidden.group(1)}). Get the file from its publisher; if it "
        "is your own, save only its state dict."
    )


def _tensors_in(content: Any, file: Path) -> dict[str, Tensor]:
    """Return the state dict of a file: its content, or the value of one of the keys WRAPPERS."""
    if isinstance(content, dict):
        inner = next((content[key] for key in WRAPPERS if isinstance(content.get(key), dict)), content)
        tensors = {str(name): value for name, value in inner.items() if isinstance(value, torch.Tensor)}
        if tensors:
            return tensors
    found = (
        f"a dict of {', '.join(map(str, list(content)[:5]))}" if isinstance(content, dict) else type(content).__name__
    )
    raise CheckpointError(f"{file} contains no state dict but {found}. Give a file with a state dict.")


def _refuse_other_kinds(file: Path) -> None:
    """Raise CheckpointError for files whose first bytes show that they are not weights."""
    if file.suffix not in (SAFETENSORS, *PICKLES):
        raise CheckpointError(
            f"{file} is not a weights file. Its name must end in {SAFETENSORS}, {', '.join(PICKLES)}."
        )
    try:
        with file.open("rb") as opened_file:
            head = opened_file.read(_HEAD_BYTES)
    except OSError as error:
        raise CheckpointError(f"{file} cannot be read ({error.strerror}). Give the path of the weights.") from error
    if not head:
        raise CheckpointError(f"{file} is empty. Download it again.")
    if head.startswith(_LFS):
        size = re.search(rb"size (\d+)", head)
        really = f" The actual file has {int(size.group(1)):,} bytes." if size else ""
        raise CheckpointError(
            f"{file} is a Git-LFS pointer, not the weights.{really} Run `git lfs pull` in its repository."
        )
    if _PAGE.match(head):
        raise CheckpointError(
            f"{file} is a web page, not weights: the server returned a page instead of the file. Download it again."
        )
    if file.suffix != SAFETENSORS:
        _refuse_other_pickles(file, head)


def _refuse_other_pickles(file: Path, head: bytes) -> None:
    if head.startswith(_ZIP) and not zipfile.is_zipfile(file):
        raise CheckpointError(
            f"{file} is truncated: the end of the zip archive is missing ({_size(file)}). Download it again."
        )
    if not head.startswith((_ZIP, _PICKLE)):
        raise CheckpointError(f"{file} was not written by torch.save; it begins with {head[:16]!r}. Download it again.")


def _shards(index: Path) -> list[Path]:
    try:
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
        outside = [name for name in names if Path(name).name != name]
    except (ValueError, KeyError, AttributeError, TypeError, OSError) as error:
        raise CheckpointError(f"{index} is not a valid index of shards ({error!r}). Copy it again.") from error
    if outside:
        raise CheckpointError(f"{index} names {outside[0]}, which is not a file of its folder. Use the original index.")
    missing = [name for name in names if not (index.parent / name).is_file()]
    if missing:
        raise CheckpointError(f"{index.parent} lacks {', '.join(missing)}, which {index.name} names. Copy them there.")
    return [index.parent / name for name in names]


def _size(file: Path) -> str:
    return f"{file.stat().st_size:,} bytes"


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0].partition(". This")[0]
