"""Atomic files and folders (written under a temporary name, then renamed), and SHA-256 hashes."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

_BYTES_PER_READ = 2**20


@contextmanager
def new_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path that is renamed to ``path`` when the block ends, or removed if it raises.

    An existing file at ``path`` is replaced only then. Missing parent folders are created.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        yield unfinished
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


@contextmanager
def new_folder(path: Path, *, sync: bool = False) -> Iterator[Path]:
    """Yield an empty temporary folder that is renamed to ``path`` when the block ends, or removed if it raises.

    An existing folder at ``path`` is replaced only then, and is put back if the rename fails. ``sync`` flushes the
    files to disk before the rename. Missing parent folders are created.
    """
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.part")
    replaced = path.with_name(f".{path.name}.{os.getpid()}.old")
    shutil.rmtree(unfinished, ignore_errors=True)
    try:
        unfinished.mkdir(parents=True)
        yield unfinished
        if sync:
            _sync(unfinished)
        if path.exists():
            path.rename(replaced)  # deleting it takes longer, and there would be no folder meanwhile
        try:
            unfinished.rename(path)
        except OSError:
            if replaced.exists():
                replaced.rename(path)
            raise
        shutil.rmtree(replaced, ignore_errors=True)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _sync(folder: Path) -> None:
    for path in (*folder.iterdir(), folder):
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def replace_text(path: Path, text: str) -> None:
    """Write text (UTF-8) to ``path`` atomically: if writing fails, the old file stays."""
    with new_file(path) as unfinished:
        unfinished.write_text(text, encoding="utf-8")


def sha256(file: Path | BinaryIO) -> str:
    """Return the SHA-256 of a file's bytes in hexadecimal. Raises OSError if it cannot be read."""
    if isinstance(file, Path):
        with file.open("rb") as stream:
            return sha256(stream)
    digest = hashlib.sha256()
    while block := file.read(_BYTES_PER_READ):
        digest.update(block)
    return digest.hexdigest()
