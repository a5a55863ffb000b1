"""Weight files as people have them, opened safely: a mapping from names to tensors that are read when they are used.

A ``.pth`` or ``.bin`` is unpickled without running code and mapped into memory, a ``.safetensors`` file likewise; a
folder is one in Hugging Face's layout, whole or in shards. What is no weights at all is recognised and named: an empty
file, half a download, a Git-LFS pointer, a saved error page, a pickle with code in it.
"""

from __future__ import annotations

import json
import re
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from video_llama.errors import CheckpointError

if TYPE_CHECKING:
    import torch
    from torch import Tensor

SAFETENSORS = ".safetensors"
PICKLES = (".pth", ".pt", ".bin")
INDEX_FILES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
WHOLE_FILES = ("model.safetensors", "pytorch_model.bin")
WRAPPERS = ("model", "state_dict")
"""Where a trainer's checkpoint keeps its tensors, beside optimizer, epoch and the like."""

Shape = tuple[int, ...]

_HEAD_BYTES = 512
_LFS = b"version https://git-lfs.github.com/spec/"
_ZIP = b"PK\x03\x04"
_PICKLE = b"\x80"
_PAGE = re.compile(rb"\s*(<!doctype|<html|<\?xml|<head)", re.IGNORECASE)
_FORBIDDEN = re.compile(r"GLOBAL ([\w.]+)")


@dataclass(frozen=True)
class StoredTensor:
    """Where a tensor lies and what it is, known without reading it."""

    file: Path
    name: str
    shape: Shape
    dtype: torch.dtype

    @property
    def num_bytes(self) -> int:
        size: int = self.dtype.itemsize
        for length in self.shape:
            size *= length
        return size


def weight_files(path: Path) -> list[Path]:
    """The files that hold the tensors of ``path``: itself, or the file or shards of a Hugging Face folder.

    Raises CheckpointError where there are none, or a shard that an index names is not there.
    """
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise CheckpointError(f"{path} does not exist. Give a file of weights, or a folder of them.")
    index = next((path / name for name in INDEX_FILES if (path / name).is_file()), None)
    if index is not None:
        return _shards(index)
    found = [path / name for name in WHOLE_FILES if (path / name).is_file()]
    if not found:
        known = ", ".join((*WHOLE_FILES, *INDEX_FILES))
        raise CheckpointError(f"{path} holds none of {known}. Copy the weights there.")
    return found[:1]


def scan(path: Path) -> dict[str, StoredTensor]:
    """Every tensor of a file or folder by its name in there; no values are read.

    Raises CheckpointError as :func:`opened` does, and for a name that two shards hold.
    """
    found: dict[str, StoredTensor] = {}
    for file in weight_files(path):
        with opened(file) as tensors:
            for name, tensor in tensors.items():
                if name in found:
                    raise CheckpointError(f"{file} and {found[name].file} both hold {name}. Remove one of them.")
                found[name] = StoredTensor(file, name, tuple(tensor.shape), tensor.dtype)
    return found


@contextmanager
def opened(file: Path) -> Iterator[Mapping[str, Tensor]]:
    """The tensors of one file, mapped: their values are read from disk when they are used, and let go at the end.

    Raises CheckpointError that says what the file is, if it is not weights. Only a ``.pth`` of before 2020, which
    cannot be mapped, is read whole.
    """
    _refuse_other_kinds(file)
    if file.suffix == SAFETENSORS:
        with _opened_safetensors(file) as tensors:
            yield tensors
    else:
        yield _tensors_in(_unpickled(file), file)


class _SafeTensors(Mapping[str, "Tensor"]):
    """An opened safetensors file; a tensor's pages are mapped at each access and belong to the tensor."""

    def __init__(self, handle: Any) -> None:
        self._handle = handle
        self._names = list(handle.keys())

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
    from safetensors import SafetensorError, safe_open

    try:
        handle = safe_open(file, framework="pt")
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            f"{file} is cut short, or no safetensors file ({error}; {_size(file)}). Download it again."
        ) from error
    with handle:
        yield _SafeTensors(handle)


def _unpickled(file: Path) -> Any:
    """What a ``torch.save`` file holds; mapped where its format allows it."""
    import pickle

    import torch

    is_zip = zipfile.is_zipfile(file)
    try:
        return torch.load(file, weights_only=True, mmap=is_zip or None, map_location="cpu")
    except pickle.UnpicklingError as error:
        raise _refused_pickle(file, error) from error
    except (RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        what = (
            "is a zip archive that torch.save did not write"
            if is_zip
            else "is cut short, or no file that torch.save wrote"
        )
        raise CheckpointError(f"{file} {what} ({_first_line(error)}; {_size(file)}). Download it again.") from error


def _refused_pickle(file: Path, error: Exception) -> CheckpointError:
    forbidden = _FORBIDDEN.search(str(error))
    if forbidden is None:
        return CheckpointError(
            f"{file} is no file that torch.save wrote, or damaged ({_size(file)}). Download it again."
        )
    return CheckpointError(
        f"{file} would run code when it is loaded: it calls {forbidden.group(1)}, and weights need no code. It was "
        "not run. Get the file from its publisher; if it is your own, save its state dict alone."
    )


def _tensors_in(content: Any, file: Path) -> dict[str, Tensor]:
    """The state dict in a file: the file itself, or what stands under one of WRAPPERS."""
    import torch

    if isinstance(content, dict):
        inner = next((content[key] for key in WRAPPERS if isinstance(content.get(key), dict)), content)
        tensors = {str(name): value for name, value in inner.items() if isinstance(value, torch.Tensor)}
        if tensors:
            return tensors
    held = (
        f"a dict of {', '.join(map(str, list(content)[:5]))}" if isinstance(content, dict) else type(content).__name__
    )
    raise CheckpointError(f"{file} holds no tensors by name but {held}. Give a file with a state dict.")


def _refuse_other_kinds(file: Path) -> None:
    """Raise CheckpointError for what can be told from the first bytes."""
    if file.suffix not in (SAFETENSORS, *PICKLES):
        raise CheckpointError(
            f"{file} is no weights file: its name ends in none of {SAFETENSORS}, {', '.join(PICKLES)}."
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
        really = f" The file itself has {int(size.group(1)):,} bytes." if size else ""
        raise CheckpointError(
            f"{file} is a Git-LFS pointer, not the weights.{really} Run `git lfs pull` in its repository."
        )
    if _PAGE.match(head):
        raise CheckpointError(
            f"{file} is a web page, not weights: the download was answered by one. Download it again."
        )
    if file.suffix != SAFETENSORS:
        _refuse_other_pickles(file, head)


def _refuse_other_pickles(file: Path, head: bytes) -> None:
    if head.startswith(_ZIP) and not zipfile.is_zipfile(file):
        raise CheckpointError(
            f"{file} is cut short: its table of contents is missing ({_size(file)}). Download it again."
        )
    if not head.startswith((_ZIP, _PICKLE)):
        raise CheckpointError(
            f"{file} is no file that torch.save wrote; it begins with {head[:16]!r}. Download it again."
        )


def _shards(index: Path) -> list[Path]:
    try:
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    except (ValueError, KeyError, AttributeError, TypeError, OSError) as error:
        raise CheckpointError(f"{index} is no index of shards ({error!r}). Copy it again.") from error
    missing = [name for name in names if not (index.parent / name).is_file()]
    if missing:
        raise CheckpointError(f"{index.parent} lacks {', '.join(missing)}, which {index.name} names. Copy them there.")
    return [index.parent / name for name in names]


def _size(file: Path) -> str:
    return f"{file.stat().st_size:,} bytes"


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0].partition(". This")[0]
