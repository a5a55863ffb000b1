"""Files that appear whole or not at all: written beside their place under another name, which they then give up; and
the hash of what a file holds."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

_BYTES_PER_READ = 2**20


@contextmanager
def new_file(path: Path) -> Iterator[Path]:
    """A path to write to, which becomes ``path`` if nothing is raised and is removed otherwise.

    What stood at ``path`` stays until then. The folder is made where it is missing.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        yield unfinished
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def replace_text(path: Path, text: str) -> None:
    """Write a text (UTF-8) whole or not at all: where the disk is full, the old one stays."""
    with new_file(path) as unfinished:
        unfinished.write_text(text, encoding="utf-8")


def sha256(file: Path | BinaryIO) -> str:
    """The hash of a file's bytes in hexadecimal. Raises OSError where it cannot be read."""
    if isinstance(file, Path):
        with file.open("rb") as stream:
            return sha256(stream)
    digest = hashlib.sha256()
    while block := file.read(_BYTES_PER_READ):
        digest.update(block)
    return digest.hexdigest()
