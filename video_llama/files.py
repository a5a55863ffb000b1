"""Files that appear whole or not at all: written beside their place under another name, which they then give up."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


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
