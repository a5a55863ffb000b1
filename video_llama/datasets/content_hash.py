"""The sha256 of a medium's bytes: the same wherever the file lies and whenever it was touched, another once it changes.

A file is read for it once. ``contents.jsonl`` beside the features remembers what was found; the last row of a file
counts:

    {"file": "/data/a.mp4", "state": "23792 1735689600000000000 1735689600000000000 131", "sha256": "..."}

As long as the file system gives a file the same state (size, mtime, ctime, inode; of a tar shard what its address
tells), the file is not read again. ctime is there since programs set mtime back, as ``cp -p`` and ``rsync`` do, and
nothing sets ctime. Two changes within one tick of the file system's clock leave one state, so what changed less than
``CLOCK_TICK_SECONDS`` before it was read is not remembered: the next run reads it once more.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
import time
from dataclasses import dataclass
from pathlib import Path

from video_llama.datasets.sample import Fetched, SampleFile, TarMember
from video_llama.errors import DataError, MediaError
from video_llama.files import replace_text, sha256
from video_llama.log import logger
from video_llama.processors.images import frame_paths

CONTENTS_FILE = "contents.jsonl"
CLOCK_TICK_SECONDS = 2.0
"""FAT's tick for mtime, the coarsest in use."""


@dataclass(frozen=True)
class HashedFile:
    """A file's bytes by their ``sha256``, the state in which it was read, and where to read it from now."""

    sha256: str
    state: str
    file: SampleFile
    """The file, or its bytes where a tar member had to be fetched for the hash."""


class ContentHashes:
    """The contents of media files, remembered in ``folder``; ``writes`` is for one process of a run."""

    def __init__(self, folder: Path, *, writes: bool = True) -> None:
        self.num_read = 0
        """Files that had to be read."""
        self._path, self._writes = folder / CONTENTS_FILE, writes
        self._known = self._remembered()

    def of(self, file: SampleFile) -> HashedFile:
        """The content of a file as it is now. Raises MediaError for one that cannot be read."""
        name, state, changed = _name(file), *_state(file)
        known_state, sha256 = self._known.get(name, ("", ""))
        if known_state == state:
            return HashedFile(sha256, state, file)
        is_settled = changed < time.time() - CLOCK_TICK_SECONDS
        held = file.fetch() if isinstance(file, TarMember) else file
        sha256 = _sha256(held)
        self.num_read += 1
        if is_settled and _state(file)[0] == state:
            self._remember(name, state, sha256)
        return HashedFile(sha256, state, held)

    def check(self, content: HashedFile, file: SampleFile) -> None:
        """Raise MediaError where ``file`` is no longer in the state in which ``content`` was read."""
        if _state(file)[0] != content.state:
            raise MediaError(f"{file} changed while it was read. Run again when nothing writes to it.")

    def _remembered(self) -> dict[str, tuple[str, str]]:
        if not self._path.exists():
            return {}
        known: dict[str, tuple[str, str]] = {}
        num_damaged = 0
        with self._path.open(encoding="utf-8") as file:
            for line in file:
                try:
                    row = json.loads(line)
                    known[row["file"]] = row["state"], row["sha256"]
                except (ValueError, KeyError, TypeError):
                    num_damaged += 1
        if num_damaged and self._writes:
            logger.warning("%s: %d rows were cut off; their files are read again", self._path, num_damaged)
            replace_text(self._path, "".join(_row(name, *found) for name, found in known.items()))
        return known

    def _remember(self, name: str, state: str, sha256: str) -> None:
        self._known[name] = state, sha256
        if self._writes:
            try:
                self._path.parent.mkdir(parents=True, exist_ok=True)
                with self._path.open("a", encoding="utf-8") as file:
                    file.write(_row(name, state, sha256))
            except OSError as error:
                raise DataError(f"{self._path} cannot be written: {error}. Make room and run again.") from error


def _row(name: str, state: str, sha256: str) -> str:
    return json.dumps({"file": name, "state": state, "sha256": sha256}) + "\n"


def _name(file: SampleFile) -> str:
    return os.path.abspath(file) if isinstance(file, Path) else str(file)


def _state(file: SampleFile) -> tuple[str, float]:
    """What the file system tells of a file, and when that changed last, in seconds (0 where it is not known)."""
    if isinstance(file, TarMember):
        return f"{file.size} {file.state} {file.offset}", 0.0
    assert isinstance(file, Path)
    try:
        status = file.stat()
        if stat.S_ISDIR(status.st_mode):
            frames = [_state(path) for path in frame_paths(file)]
            text = hashlib.sha256(" ".join(state for state, _ in frames).encode()).hexdigest()
            return text, max(changed for _, changed in frames)
    except OSError as error:
        raise MediaError(f"{file} cannot be read: {error.strerror}.") from error
    text = f"{status.st_size} {status.st_mtime_ns} {status.st_ctime_ns} {status.st_ino}"
    return text, max(status.st_mtime, status.st_ctime)


def _sha256(file: Path | Fetched) -> str:
    """Of a file's bytes; of a folder of frames, of its frames' in their order."""
    try:
        if isinstance(file, Path) and file.is_dir():
            return hashlib.sha256("".join(map(_sha256, frame_paths(file))).encode()).hexdigest()
        return sha256(file if isinstance(file, Path) else file.open())
    except OSError as error:
        raise MediaError(f"{file} cannot be read: {error.strerror}.") from error
