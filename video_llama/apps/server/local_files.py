"""Files of the server's own disk that a client may name: those below one folder, none through ``..`` or a link."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from urllib.parse import unquote, urlsplit

from video_llama.errors import MediaError


def read_local(url: str, root: Path | None, max_bytes: int) -> bytes:
    """The bytes of a ``file:`` URL's file. Raises MediaError unless it is a regular file below ``root``.

    What lies outside and what is not there give one answer, so that nobody can ask which files exist.
    """
    if root is None:
        raise MediaError(
            "This server reads no files of its own disk. Send the file as a data: URL, or start it with --media-root."
        )
    refusal = MediaError(f"{url} is no file below the server's media folder. Give file:///FOLDER/NAME of one that is.")
    parts = urlsplit(url)
    if parts.netloc not in ("", "localhost") or "\0" in unquote(parts.path):
        raise refusal
    try:
        base = root.resolve(strict=True)
        path = Path(unquote(parts.path)).resolve(strict=True)
    except (OSError, RuntimeError) as error:
        raise refusal from error
    if not path.is_relative_to(base):
        raise refusal
    return _read(path, base, max_bytes, refusal)


def _read(path: Path, base: Path, max_bytes: int, refusal: MediaError) -> bytes:
    """Read a resolved path, unless a link was put in its way since."""
    try:
        file = open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NOFOLLOW | os.O_NONBLOCK))  # noqa: SIM115
    except OSError as error:
        raise refusal from error
    with file:
        status = os.fstat(file.fileno())
        # The name under which the kernel opened it: a folder on the way may have become a link after resolve().
        opened = Path(os.readlink(f"/proc/self/fd/{file.fileno()}"))
        if not stat.S_ISREG(status.st_mode) or not opened.is_relative_to(base):
            raise refusal
        if status.st_size > max_bytes:
            raise MediaError(f"{path.name} has {status.st_size:,} bytes; the server takes {max_bytes:,}.")
        return file.read(max_bytes)
