"""The SHA-256 of media files, which identifies their content independently of path and modification time.

Each file is hashed once. ``contents.jsonl`` in the features folder stores the results; the last row of a file is valid:

    {"file": "/data/a.mp4", "state": "23792 1735689600000000000 1735689600000000000 131", "sha256": "..."}

A file is not hashed again while its state is unchanged. The state of a local file is its size, mtime, ctime and inode;
that of a tar shard is what its file system reports. ctime is included because ``cp -p`` and ``rsync`` restore mtime,
whereas no program sets ctime. Two changes within one clock tick of the file system give the same state. Therefore the
hash of a file that changed less than ``CLOCK_TICK_SECONDS`` ago is not stored, and the next run hashes the file again.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
import time
from dataclasses import dataclass
from pathlib import Path

from video_llama.datasets.sample import FetchedMember, SampleFile, TarMember
from video_llama.errors import DataError, MediaError
from video_llama.files import parse_json, replace_text, sha256
from video_llama.log import logger
from video_llama.processors.images import frame_paths

CONTENTS_FILE = "contents.jsonl"
CLOCK_TICK_SECONDS = 2.0
"""Resolution of mtime on FAT, the coarsest file system in use."""


@dataclass(frozen=True)
class HashedFile:
    """The SHA-256 of a file, the state it was read in, and the file to read from."""

    sha256: str
    state: str
    file: SampleFile
    """The file itself, or its bytes if a tar member was fetched to compute the hash."""


class ContentHashes:
    """Hashes of media files, stored in ``folder``. Only one process of a run may set ``writes``."""

    def __init__(self, folder: Path, *, writes: bool = True) -> None:
        self.num_read = 0
        """Number of files that were hashed by this object."""
        self._path, self._writes = folder / CONTENTS_FILE, writes
        self._known = self._read_rows()

    def of(self, file: SampleFile) -> HashedFile:
        """Return the hash of a file in its current state. Raises MediaError if it is unreadable."""
        name, state, changed = _name(file), *_state(file)
        known_state, sha256 = self._known.get(name, ("", ""))
        if known_state == state:
            return HashedFile(sha256, state, file)
        is_settled = changed < time.time() - CLOCK_TICK_SECONDS
        held = file.fetch() if isinstance(file, TarMember) else file
        sha256 = _sha256(held)
        self.num_read += 1
        if is_settled and _state(file)[0] == state:
            self._store(name, state, sha256)
        return HashedFile(sha256, state, held)

    def check(self, content: HashedFile, file: SampleFile) -> None:
        """Raise MediaError if ``file`` has changed since ``content`` was read."""
        if _state(file)[0] != content.state:
            raise MediaError(f"{file} changed while it was read. Run again when no program writes to it.")

    def _read_rows(self) -> dict[str, tuple[str, str]]:
        if not self._path.exists():
            return {}
        known: dict[str, tuple[str, str]] = {}
        num_damaged = 0
        with self._path.open(encoding="utf-8") as file:
            for line in file:
                try:
                    row = parse_json(line)
                    known[row["file"]] = row["state"], row["sha256"]
                except (ValueError, KeyError, TypeError):
                    num_damaged += 1
        if num_damaged and self._writes:
            logger.warning("%s: %d rows are incomplete; their files are hashed again", self._path, num_damaged)
            replace_text(self._path, "".join(_row(name, *found) for name, found in known.items()))
        return known

    def _store(self, name: str, state: str, sha256: str) -> None:
        self._known[name] = state, sha256
        if self._writes:
            try:
                self._path.parent.mkdir(parents=True, exist_ok=True)
                with self._path.open("a", encoding="utf-8") as file:
                    file.write(_row(name, state, sha256))
            except OSError as error:
                raise DataError(f"{self._path} cannot be written: {error}. Free disk space and run again.") from error


def _row(name: str, state: str, sha256: str) -> str:
    return json.dumps({"file": name, "state": state, "sha256": sha256}) + "\n"


def _name(file: SampleFile) -> str:
    return os.path.abspath(file) if isinstance(file, Path) else str(file)


def _state(file: SampleFile) -> tuple[str, float]:
    """Return the state of a file and the time of its last change in seconds (0 if unknown)."""
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


def _sha256(file: Path | FetchedMember) -> str:
    """Return the hash of a file, or of the hashes of the frames in a folder, in frame order."""
    try:
        if isinstance(file, Path) and file.is_dir():
            return hashlib.sha256("".join(map(_sha256, frame_paths(file))).encode()).hexdigest()
        return sha256(file if isinstance(file, Path) else file.open())
    except OSError as error:
        raise MediaError(f"{file} cannot be read: {error.strerror}.") from error
