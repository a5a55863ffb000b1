"""Atomic files and folders (written under a temporary name, then renamed), text and JSON, and SHA-256 hashes."""

from __future__ import annotations

import codecs
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

MAX_JSON_DEPTH = 100
"""Largest number of lists and objects inside each other. Code that walks the value may be recursive."""
MAX_JSON_BYTES = 4 * 2**20
"""Largest JSON file that describes something (a configuration, a manifest, a state). Data files have no such limit."""

_BYTES_PER_READ = 2**20
_UTF_16_MARKS = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


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


def text_encoding(path: Path) -> str:
    """Return the encoding of a text file by its byte order mark: UTF-8 with or without a mark, or UTF-16 with one.

    The mark is not part of the text that is read with this encoding. Raises OSError if the file cannot be read.
    """
    with path.open("rb") as file:
        return "utf-16" if file.read(2) in _UTF_16_MARKS else "utf-8-sig"


def read_text(path: Path, *, max_bytes: int | None = None) -> str:
    """Return the text of a file without its byte order mark; see :func:`text_encoding`.

    Raises OSError if it cannot be read, and ValueError if it is not text or has more than ``max_bytes`` bytes.
    """
    if max_bytes is not None and path.stat().st_size > max_bytes:
        raise ValueError(f"the file has {path.stat().st_size:,} bytes; at most {max_bytes:,} are allowed")
    return path.read_text(encoding=text_encoding(path))


def parse_json(text: str) -> Any:
    """Return the value of a JSON text.

    Raises ValueError for invalid JSON and for more than MAX_JSON_DEPTH lists and objects inside each other.
    """
    too_deep = f"more than {MAX_JSON_DEPTH} lists and objects are inside each other"
    try:
        value = json.loads(text)
    except RecursionError as error:
        raise ValueError(too_deep) from error
    if text.count("[") + text.count("{") > MAX_JSON_DEPTH and _is_deeper(value, MAX_JSON_DEPTH):
        raise ValueError(too_deep)
    return value


def _is_deeper(value: Any, depth: int) -> bool:
    level = [value]
    while level := [each for each in level if isinstance(each, (list, dict))]:
        if depth == 0:
            return True
        level = [each for one in level for each in (one.values() if isinstance(one, dict) else one)]
        depth -= 1
    return False


def read_json(path: Path, *, max_bytes: int | None = MAX_JSON_BYTES) -> Any:
    """Return the value of a JSON file. Raises OSError and ValueError as :func:`read_text` and :func:`parse_json` do."""
    return parse_json(read_text(path, max_bytes=max_bytes))


def sha256(file: Path | BinaryIO) -> str:
    """Return the SHA-256 of a file's bytes in hexadecimal. Raises OSError if it cannot be read."""
    if isinstance(file, Path):
        with file.open("rb") as stream:
            return sha256(stream)
    digest = hashlib.sha256()
    while block := file.read(_BYTES_PER_READ):
        digest.update(block)
    return digest.hexdigest()


def checksum_file(path: Path) -> Path:
    """Return the file next to ``path`` that holds its SHA-256, in the format of ``sha256sum``."""
    return path.with_name(f"{path.name}.sha256")


def write_checksum(path: Path, *, content: Path | None = None) -> None:
    """Write the SHA-256 of ``path`` next to it. ``content`` is the file to hash, if ``path`` does not exist yet."""
    replace_text(checksum_file(path), f"{sha256(content or path)}  {path.name}\n")


def is_damaged(path: Path) -> bool:
    """Return whether a file differs from its checksum. A file without a checksum file is not.

    Raises OSError if the file cannot be read.
    """
    try:
        stored = checksum_file(path).read_bytes()
    except FileNotFoundError:
        return False
    return stored.split()[:1] != [sha256(path).encode()]
