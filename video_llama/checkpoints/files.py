"""Read weight files safely: a mapping from names to tensors whose values are read when they are used.

A ``.pth`` or ``.bin`` file is unpickled without running code and memory-mapped, and so is a ``.safetensors`` file. A
folder has Hugging Face's layout: one file, or shards with an index. Files that are not weights are recognized and
named: an empty file, a partial download, a Git LFS pointer, a saved error page, a pickle that contains code, a shard of
DeepSpeed's ZeRO-3. Prefixes that training wrappers add to names (DistributedDataParallel, FSDP, torch.compile) are
removed. An index may name files of its own folder only; these may be symbolic links, as in the cache of Hugging Face.
"""

from __future__ import annotations

import pickle
import re
import struct
import sys
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from video_llama.errors import CheckpointError
from video_llama.files import read_json

SAFETENSORS = ".safetensors"
PICKLES = (".pth", ".pt", ".bin")
WEIGHTS_FILE, INDEX_FILE = "model.safetensors", "model.safetensors.index.json"
PICKLED_WEIGHTS_FILE, PICKLED_INDEX_FILE = "pytorch_model.bin", "pytorch_model.bin.index.json"
WRAPPERS = ("model", "state_dict", "module")
"""Keys under which a training checkpoint contains its tensors, next to optimizer, epoch and others."""
MAX_WRAPPERS = 3
"""Largest number of such dicts inside each other."""
WRAPPER_MODULES = ("module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")
"""Parts of names that DistributedDataParallel, torch.compile, FSDP and its activation checkpointing add."""
MAX_TENSORS = 100_000
"""Most tensors of a file or folder. The published files have about 2,600 together."""
MAX_INDEX_BYTES = 2**25
"""Largest index of shards."""
BYTES_AT_ONCE = 2**24
"""How much of a file is mapped at a time when its tensors are converted; mapped pages count as the process's memory."""

Shape = tuple[int, ...]

_HEAD_BYTES = 512
_LFS = b"version https://git-lfs.github.com/spec/"
_ZIP = b"PK\x03\x04"
_PICKLE = b"\x80"
_PAGE = re.compile(rb"\s*(<!doctype|<html|<\?xml|<head)", re.IGNORECASE)
_PICKLE_ERRORS = (
    *(ArithmeticError, AssertionError, AttributeError, EOFError, LookupError, MemoryError, NotImplementedError),
    *(OSError, RuntimeError, TypeError, ValueError, struct.error, zipfile.BadZipFile),
)
"""Exceptions that torch.load raises for damaged files, apart from UnpicklingError."""
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
    """The tensor's name, without WRAPPER_MODULES."""
    shape: Shape
    dtype: torch.dtype
    stored_name: str = ""
    """The tensor's name in the file; empty if unknown."""

    @property
    def num_bytes(self) -> int:
        """Size of the values in bytes."""
        return prod(self.shape) * self.dtype.itemsize


def dtype_code(dtype: torch.dtype) -> str:
    """Return the name of a data type in the safetensors format, such as BF16."""
    return _DTYPE_CODES[dtype]


def without_wrappers(name: str) -> str:
    """Return the name of a tensor without the parts that training wrappers add, at any position."""
    return ".".join(part for part in name.split(".") if part not in WRAPPER_MODULES)


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
    """Return every tensor of a file or folder by its name, without WRAPPER_MODULES; no values are read.

    Raises CheckpointError as :func:`weight_files` and :func:`opened` do, for a name stored in two shards, and for
    more than MAX_TENSORS tensors.
    """
    found: dict[str, StoredTensor] = {}
    for file in weight_files(path, safetensors_only=safetensors_only):
        for tensor in _described(file):
            if tensor.name in found:
                other = found[tensor.name].file
                raise CheckpointError(f"{file} and {other} both contain {tensor.name}. Remove one of them.")
            found[tensor.name] = tensor
        if len(found) > MAX_TENSORS:
            raise CheckpointError(f"{path} has more than {MAX_TENSORS:,} tensors. Give the weights of a Video-LLaMA.")
    return found


def _described(file: Path) -> Iterator[StoredTensor]:
    with opened(file) as tensors:
        for name in tensors:
            tensor = tensors.described(name)
            if 0 in tensor.shape:
                raise CheckpointError(
                    f"{file}: {tensor.stored_name} has no values (its shape is {list(tensor.shape)}): the file is a "
                    "shard of DeepSpeed ZeRO-3 or FSDP. Consolidate the checkpoint with zero_to_fp32.py, which "
                    "DeepSpeed writes beside it, and give the result."
                )
            yield tensor


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
def opened(file: Path) -> Iterator[_Tensors]:
    """Open one weight file as a mapping of memory-mapped tensors, by their names without WRAPPER_MODULES.

    Raises CheckpointError, naming the kind of file, if it does not contain weights, or has two tensors of one name.
    Only ``.pth`` files written before PyTorch 1.6, which cannot be mapped, are read into memory.
    """
    _refuse_other_kinds(file)
    if file.suffix == SAFETENSORS:
        with _opened_safetensors(file) as tensors:
            yield tensors
    else:
        yield _PickledTensors(file, _tensors_in(read_pickle(file), file))


class _Tensors(Mapping[str, Tensor]):
    """The tensors of an open file by their names without WRAPPER_MODULES."""

    def __init__(self, file: Path, stored_names: Iterable[str]) -> None:
        self._file = file
        self._stored: dict[str, str] = {}
        for stored in stored_names:
            name = without_wrappers(stored)
            if name in self._stored:
                raise CheckpointError(f"{file} has both {self._stored[name]} and {stored}. Remove one of them.")
            self._stored[name] = stored

    def described(self, name: str) -> StoredTensor:
        """Return a tensor's location, shape and data type."""
        raise NotImplementedError

    def __iter__(self) -> Iterator[str]:
        return iter(self._stored)

    def __len__(self) -> int:
        return len(self._stored)


class _PickledTensors(_Tensors):
    """The tensors of a ``torch.save`` file."""

    def __init__(self, file: Path, tensors: Mapping[str, Tensor]) -> None:
        super().__init__(file, tensors)
        self._tensors = tensors

    def described(self, name: str) -> StoredTensor:
        """Return a tensor's location, shape and data type. Raises CheckpointError unless it holds all its values."""
        tensor, stored = self[name], self._stored[name]
        is_plain = tensor.layout is torch.strided and tensor.device.type == "cpu" and not tensor.is_quantized
        if not is_plain or tensor.numel() * tensor.itemsize > tensor.untyped_storage().nbytes():
            raise CheckpointError(
                f"{self._file}: {stored} does not hold all its values (it is sparse, quantized, expanded or without "
                "data). Save it as an ordinary tensor."
            )
        return StoredTensor(self._file, name, tuple(tensor.shape), tensor.dtype, stored)

    def __getitem__(self, name: str) -> Tensor:
        return self._tensors[self._stored[name]]


class _SafeTensors(_Tensors):
    """An open safetensors file. Each access maps the tensor's pages anew; they belong to the returned tensor."""

    def __init__(self, file: Path, handle: Any) -> None:
        super().__init__(file, handle.keys())
        self._handle = handle

    def described(self, name: str) -> StoredTensor:
        """Return a tensor's shape and data type from the header. Raises CheckpointError for unsupported types."""
        stored = self._stored[name]
        header = self._handle.get_slice(stored)
        dtype = _CODED_DTYPES.get(header.get_dtype())
        if dtype is None:
            raise CheckpointError(
                f"{self._file}: {stored} has data type {header.get_dtype()}, which is not supported. Convert it to "
                "BF16 first."
            )
        return StoredTensor(self._file, name, tuple(header.get_shape()), dtype, stored)

    def __getitem__(self, name: str) -> Tensor:
        tensor: Tensor = self._handle.get_tensor(self._stored[name])
        return tensor


@contextmanager
def _opened_safetensors(file: Path) -> Iterator[_SafeTensors]:
    try:
        handle = safe_open(file, framework="pt")
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            f"{file} is truncated or not a safetensors file ({error}; {_size(file)}). Copy or download it again."
        ) from error
    with handle:
        yield _SafeTensors(file, handle)


def read_pickle(file: Path, *, is_mapped: bool = True) -> Any:
    """Load a ``torch.save`` file without running code, memory-mapped if its format allows it."""
    is_zip = zipfile.is_zipfile(file)
    try:
        if is_zip:
            _check_archive(file)
        return torch.load(file, weights_only=True, mmap=(is_zip and is_mapped) or None, map_location="cpu")
    except pickle.UnpicklingError as error:
        raise _refused_pickle(file, error) from error
    except _PICKLE_ERRORS as error:
        what = (
            "is a zip archive that torch.save did not write"
            if is_zip
            else "is truncated, or was not written by torch.save"
        )
        raise CheckpointError(f"{file} {what} ({_first_line(error)}; {_size(file)}). Download it again.") from error


def _check_archive(file: Path) -> None:
    """Raise CheckpointError for compressed members, whose size is not limited by the file's, and for too many."""
    with zipfile.ZipFile(file) as archive:
        members = archive.infolist()
    if len(members) > MAX_TENSORS:
        raise CheckpointError(f"{file} has more than {MAX_TENSORS:,} members. Give the weights of a Video-LLaMA.")
    if any(member.compress_type != zipfile.ZIP_STORED for member in members):
        raise CheckpointError(
            f"{file} is a compressed zip archive, which torch.save does not write. Download it again."
        )


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
        inner = content
        for _ in range(MAX_WRAPPERS):
            inner = next((inner[key] for key in WRAPPERS if isinstance(inner.get(key), dict)), inner)
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
        names = sorted(set(read_json(index, max_bytes=MAX_INDEX_BYTES)["weight_map"].values()))
        outside = [name for name in names if Path(name).name != name or name == ".."]
    except (ValueError, KeyError, AttributeError, TypeError, OSError) as error:
        raise CheckpointError(f"{index} is not a valid index of shards ({error!r}). Copy it again.") from error
    if outside:
        raise CheckpointError(f"{index} names {outside[0]}, which is not a file of its folder. Use the original index.")
    other = [name for name in names if index.name == INDEX_FILE and not name.endswith(SAFETENSORS)]
    if other:
        raise CheckpointError(f"{index} names {other[0]}, which is not a safetensors file. Use the original index.")
    missing = [name for name in names if not (index.parent / name).is_file()]
    if missing:
        listed = ", ".join(missing[:5]) + (f" and {len(missing) - 5} more" if len(missing) > 5 else "")
        raise CheckpointError(f"{index.parent} lacks {listed}, which {index.name} names. Copy them there.")
    return [index.parent / name for name in names]


def _size(file: Path) -> str:
    return f"{file.stat().st_size:,} bytes"


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0].partition(". This")[0]
