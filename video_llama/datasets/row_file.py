"""A JSONL file of results in which every row is written exactly once, also if the process is killed and started again.

Rows are appended with one system call each time, so that a killed process leaves at most one incomplete line, the last
one. It is removed when the file is opened again, and its row is computed again. The file is locked while it is open.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from video_llama.errors import DataError
from video_llama.files import parse_json, read_json, replace_text

SYNC_SECONDS = 5.0
"""Time between two flushes to the disk. A killed process loses no written row; a power failure can lose these."""

Key = tuple[Any, ...]


class RowFile:
    """The open file, used as a context manager. ``done`` holds the keys of its rows: the values of ``keys``.

    Raises DataError if another process has it open, if a line is not a row with these keys, or if a key occurs twice.
    """

    def __init__(self, path: Path, keys: Sequence[str] = ("id",)) -> None:
        self.path, self._keys = path, tuple(keys)
        path.parent.mkdir(parents=True, exist_ok=True)
        self._handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o666)
        try:
            _lock(self._handle, path)
            self.done = self._repair()
        except BaseException:
            os.close(self._handle)
            raise
        self._synced = time.monotonic()

    def __enter__(self) -> RowFile:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        os.fsync(self._handle)
        os.close(self._handle)

    def key(self, row: Mapping[str, Any]) -> Key:
        """Return the key of a row."""
        return tuple(row[name] for name in self._keys)

    def write(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Append rows. A full disk raises OSError and leaves the file as it was."""
        rows = list(rows)
        new = [self.key(row) for row in rows]
        assert self.done.isdisjoint(new), "a row is written twice"
        assert len(set(new)) == len(new), "a row is written twice"
        text = "".join(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n" for row in rows)
        data = text.encode(errors="backslashreplace")  # of file names that are not UTF-8; it is JSON's escape as well
        size = os.fstat(self._handle).st_size
        try:
            while data:
                data = data[os.write(self._handle, data) :]
        except OSError:
            os.ftruncate(self._handle, size)
            raise
        self.done.update(new)
        if time.monotonic() - self._synced > SYNC_SECONDS:
            os.fsync(self._handle)
            self._synced = time.monotonic()

    def _repair(self) -> set[Key]:
        """Remove an incomplete last line and return the keys of the rows."""
        done: set[Key] = set()
        size = 0
        with self.path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                if not line.endswith(b"\n"):
                    os.ftruncate(self._handle, size)
                    break
                size += len(line)
                try:
                    key = self.key(parse_json(line.decode()))
                except (ValueError, KeyError, TypeError) as error:
                    raise DataError(
                        f"{self.path}:{number} is not a row with {', '.join(self._keys)} ({error!r}). Use a new folder "
                        "for the results, or remove this line."
                    ) from error
                if key in done:
                    raise DataError(f"{self.path}:{number}: {key[0]!r} occurs twice. Use a new folder for the results.")
                done.add(key)
        return done


def _lock(handle: int, path: Path) -> None:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise DataError(f"{path} is being written by another process. Wait for it, or use another folder.") from error


def complete_rows(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the rows of a JSONL file without an incomplete last line. Raises DataError for other content."""
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                if not line.endswith(b"\n"):
                    return
                row = parse_json(line.decode())
                if not isinstance(row, dict):
                    raise ValueError(f"line {number} is a {type(row).__name__}, not an object")
                yield row
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}. Give the folder of a finished run.") from error
    except ValueError as error:
        raise DataError(f"{path} is not a file of rows: {error}. Give the folder of a finished run.") from error


def keep_settings(path: Path, settings: Mapping[str, Any], results: Path | None = None) -> None:
    """Write the settings of a run to ``path``; for a run that is continued, compare them with the file.

    ``results`` is what errors name: the file of the results (default: the folder of ``path``).

    Raises DataError with the settings that differ: rows of different settings must not be mixed.
    """
    settings = json.loads(json.dumps(settings, allow_nan=False))
    if not path.exists():
        replace_text(path, json.dumps(settings, indent=2, ensure_ascii=False) + "\n")
        return
    try:
        stored = read_json(path)
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read: {error}. Use a new folder for the results.") from error
    if stored == settings:
        return
    names = sorted({*stored, *settings}) if isinstance(stored, dict) else []
    changed = [
        f"{name} was {stored.get(name)!r} and is {settings.get(name)!r}"
        for name in names
        if stored.get(name) != settings.get(name)
    ]
    raise DataError(
        f"{results or path.parent} holds results of other settings: {'; '.join(changed) or path.name}. Use the same "
        f"settings to continue, or a new {'folder' if results is None else 'file'}."
    )
