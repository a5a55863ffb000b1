"""Files in object stores (fsspec) and in tar shards: their names, and their content with a size limit.

Only the stores in ``STORES`` are read. Their addresses name a bucket of the configured store, not a machine, so that a
row of a table cannot direct a request at another address. http(s) URLs are read by ``UrlFetcher`` instead.
"""

from __future__ import annotations

import atexit
import posixpath
import shutil
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

from video_llama.datasets.sample import LASTING_ERRORS, TarMember
from video_llama.errors import DataError, MediaError

STORES = {"file": None, "memory": None, "s3": "s3fs", "gs": "gcsfs", "gcs": "gcsfs", "az": "adlfs"}
"""Scheme of an address -> the package that fsspec needs for it."""


class MemberPath(str):
    """The name of a file in a tar shard, ``SHARD:NAME``, with its place."""

    member: TarMember
    __slots__ = ("member",)

    def __new__(cls, member: TarMember) -> MemberPath:
        path = super().__new__(cls, str(member))
        path.member = member
        return path

    def __reduce__(self) -> tuple[Any, ...]:
        return MemberPath, (self.member,)


def is_address(source: str) -> bool:
    """Return whether a source is an address (``scheme://``) and not a local path."""
    return "://" in source


def check_address(address: str) -> None:
    """Raise MediaError for an address whose scheme is not in ``STORES``, or that is chained (``::``)."""
    if address.partition("://")[0] not in STORES or "::" in address:
        raise MediaError(
            f"{address} is at none of the supported addresses: http(s), {', '.join(STORES)}. Download the file and "
            "give its path."
        )


def file_system(address: str) -> tuple[Any, str]:
    """Return the fsspec file system of an address and the path in it.

    Raises MediaError as :func:`check_address`, and if a package is not installed.
    """
    import fsspec  # type: ignore[import-untyped]

    check_address(address)
    try:
        system, path = fsspec.core.url_to_fs(address)
    except ImportError as error:
        package = STORES[address.partition("://")[0]]
        raise MediaError(f"{address} needs a package that is not installed: pip install {package}") from error
    except Exception as error:  # the packages also raise errors of their own, such as botocore's
        raise MediaError(f"{address} cannot be opened ({error}). Check the address and the credentials.") from error
    return system, path


def stored_content(address: str, max_bytes: int) -> bytes:
    """Return the content of a file in a store. Raises MediaError if it cannot be read or is too large."""
    system, path = file_system(address)
    try:
        with system.open(path, "rb") as file:
            data: bytes = file.read(max_bytes + 1)
    except Exception as error:  # see file_system
        is_plain = isinstance(error, (FileNotFoundError, IsADirectoryError, PermissionError))  # with the path as text
        reason = type(error).__name__ if is_plain else error
        raise MediaError(
            f"{address} cannot be read ({reason}). Check the address and the credentials.",
            is_temporary=not isinstance(error, LASTING_ERRORS),
        ) from error
    if len(data) > max_bytes:
        raise too_large(address, max_bytes)
    return data


def member_content(member: TarMember, max_bytes: int) -> bytes:
    """Return the content of a file in a shard. Raises MediaError if it cannot be read or is too large."""
    if member.size > max_bytes:
        raise too_large(str(member), max_bytes)
    return member.fetch().data


def too_large(name: str, max_bytes: int) -> MediaError:
    """Return the error of a file above the limit."""
    return MediaError(f"{name} has more than {max_bytes:,} bytes. Use a smaller file, or set max_media_bytes (--set).")


def stored_files(source: str) -> list[tuple[str, str]]:
    """Return the path below the folder (or the name) and the address of each file of a folder, pattern or file.

    Sorted by address. Raises DataError if there is no such file or folder.
    """
    try:
        system, path = file_system(source)
        if any(character in path for character in "*?["):
            found = system.glob(path, detail=True)
            folder = path[: min(path.index(character) for character in "*?[" if character in path)]
        elif system.isdir(path):
            found, folder = system.find(path, detail=True), f"{path.rstrip('/')}/"
        else:
            found, folder = {path: {}} if system.exists(path) else {}, path
    except Exception as error:  # see file_system
        raise DataError(f"{source} cannot be listed: {error}") from error
    files = sorted(name for name, facts in found.items() if facts.get("type") != "directory")
    if not files:
        raise DataError(f"{source} does not exist, or has no files. Correct the address.")
    scheme, base = source.partition("://")[0], posixpath.dirname(folder)
    return [
        (posixpath.relpath(name, base or "/"), f"{scheme}://{name.lstrip('/') if scheme != 'file' else name}")
        for name in files
    ]


@cache
def table_copy(address: str) -> Path:
    """Copy a table from a store to a temporary file, once in this process, and return its path.

    Raises DataError if it cannot be read. Tables at http(s) addresses are refused.
    """
    if address.startswith(("http://", "https://")):
        raise DataError(f"{address}: tables are not downloaded. Download it, and give its path.")
    folder = Path(tempfile.mkdtemp(prefix="video-llama-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    copy = folder / posixpath.basename(address)
    try:
        system, path = file_system(address)
        system.get(path, str(copy))
    except Exception as error:  # see file_system
        raise DataError(f"{address} cannot be read: {error}") from error
    return copy
