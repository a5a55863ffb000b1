"""Read WebDataset tar shards into Samples, with random access to their members.

A shard is an uncompressed tar file, local or at an address that fsspec supports (``s3://``, ``https://``,
``memory://``). Members with the same name up to the first dot form one sample: media (``.mp4``, ``.jpg``, ``.wav``,
...) and a text, ``.txt`` (a caption) or ``.json`` (a row as in ``own_rows.py``, without paths). The tar headers of a
shard are read once and stored in ``index_dir``.
"""

from __future__ import annotations

import hashlib
import json
import re
import tarfile
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Any, cast

from video_llama.datasets.own_rows import conversation_sample
from video_llama.datasets.sample import Sample, SampleKind, SampleMedium, TarMember
from video_llama.errors import DataError
from video_llama.files import parse_json, read_json, replace_text
from video_llama.log import logger, progress

SUFFIX_KINDS: dict[str, SampleKind] = {
    **dict.fromkeys(("mp4", "webm", "mkv", "avi", "mov"), "video"),
    **dict.fromkeys(("jpg", "jpeg", "png", "webp", "bmp"), "image"),
    **dict.fromkeys(("wav", "flac", "mp3", "ogg", "m4a", "opus"), "audio"),
}
TEXT_SUFFIXES = ("txt", "json")
STATE_KEYS = (
    *("mtime", "created", "ino"),  # local files, memory://
    *("ETag", "etag", "Content-MD5", "Digest", "Last-Modified"),  # http, S3
    *("LastModified", "last_modified", "updated", "md5Hash", "generation"),  # S3, Azure, Google
)
"""Keys of fsspec's ``info`` that change with the file, for the various file systems."""
MAX_TEXT_BYTES, MAX_MEDIUM_BYTES = 2**20, 2**31
"""Largest text and medium of a sample. A sparse member can be larger than its shard."""
MAX_READ_BYTES = 2**24
"""Largest read of a tar header (a long name, or the extended header of the pax format)."""
_RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")


@dataclass(frozen=True)
class ShardEntry:
    """One sample of a shard: its media, and its texts by suffix (txt or json)."""

    key: str
    media: tuple[TarMember, ...]
    texts: dict[str, str]
    problem: str = ""
    """Reason why the sample cannot be used."""


def shard_rows(shards: Iterable[str], index_dir: Path | None) -> Iterator[tuple[str, ShardEntry]]:
    """Yield the named entries of all shards; "part-{0000..0099}.tar" expands to 100 shards.

    Raises DataError for a shard that cannot be opened or is not an uncompressed tar file.
    """
    addresses = [address for pattern in shards for address in expand_pattern(pattern)]
    for address in progress(addresses, "reading shard headers"):
        for entry in _entries(address, index_dir):
            yield f"{address}:{entry.key}", entry


def shard_sample(entry: ShardEntry, name: str) -> Sample:
    """Convert an entry to a sample. Raises DataError if it has no medium or no text."""
    media: dict[SampleKind, list[SampleMedium]] = {"image": [], "video": [], "audio": []}
    for member in entry.media:
        kind = SUFFIX_KINDS[_suffix(member.name)]
        media[kind].append(SampleMedium(name, member, kind))
    if entry.problem:
        raise DataError(f"{name}: {entry.problem}. Correct or remove it.")
    if not entry.media or not entry.texts:
        raise DataError(f"{name}: a sample needs a medium and a .txt or .json file. Correct or remove it.")
    return conversation_sample(_row(entry, name), name, media)


def expand_pattern(pattern: str) -> list[str]:
    """Return the addresses of a pattern with ranges such as {000..099}."""
    found = _RANGE.search(pattern)
    if found is None:
        return [pattern]
    first, last = found.groups()
    numbers = range(int(first), int(last) + 1)
    texts = [f"{pattern[: found.start()]}{number:0{len(first)}d}{pattern[found.end() :]}" for number in numbers]
    return [address for text in texts for address in expand_pattern(text)]


def json_values(entry: ShardEntry, name: str) -> dict[str, Any]:
    """Return the object in the sample's .json file. Raises DataError if it is not one."""
    try:
        values = parse_json(entry.texts["json"])
    except ValueError as error:
        raise DataError(f"{name}.json is not valid JSON: {error}. Correct or remove it.") from error
    if not isinstance(values, dict):
        raise DataError(f"{name}.json contains a {type(values).__name__}, not an object. Correct or remove it.")
    return values


def _row(entry: ShardEntry, name: str) -> dict[str, Any]:
    if "json" not in entry.texts:
        return {"caption": entry.texts["txt"].strip()}
    row = json_values(entry, name)
    if not {"caption", "conversations", "messages"} & row.keys() and "txt" in entry.texts:
        return {"caption": entry.texts["txt"].strip()}
    return row


def _entries(address: str, index_dir: Path | None) -> list[ShardEntry]:
    """Return the entries of a shard, from the index if it is up to date, else from the tar headers."""
    state = _state(address)
    path = index_dir and index_dir / f"{hashlib.sha256(f'{address} {state}'.encode()).hexdigest()[:32]}.json"
    if path and path.is_file():
        try:
            content = read_json(path, max_bytes=None)
            if not isinstance(content, list):
                raise TypeError("it is not a list")
            return [_restored(entry) for entry in content]
        except (OSError, ValueError, KeyError, TypeError) as error:
            logger.warning("%s is damaged (%r); the headers of %s are read again", path, error, address)
    entries = _read_headers(address, state)
    if path:
        replace_text(path, json.dumps([asdict(entry) for entry in entries]))
    return entries


def _restored(entry: dict[str, Any]) -> ShardEntry:
    media = tuple(TarMember(**member) for member in entry["media"])
    return ShardEntry(entry["key"], media, entry["texts"], entry.get("problem", ""))


def _state(address: str) -> str:
    """Return a string that changes when the shard changes, as far as its file system reports changes."""
    import fsspec  # type: ignore[import-untyped]

    try:
        system, path = fsspec.core.url_to_fs(address)
        info = system.info(path)
    except ImportError as error:
        package = f"pip install 'fsspec[{address.partition('://')[0]}]'"
        raise DataError(f"{address} needs a package that is not installed ({error}): {package}") from error
    except (OSError, ValueError) as error:
        raise DataError(f"{address} cannot be opened: {error}. Correct the address of the shard.") from error
    facts = {key: info[key] for key in STATE_KEYS if info.get(key) is not None}
    if not facts:
        logger.warning(
            "%s: the file system reports neither a time nor a checksum, so a change of the same size is not detected. "
            "Delete the index and the features after a change.",
            address,
        )
    facts["size"] = info.get("size")
    return hashlib.sha256(repr(sorted(facts.items())).encode()).hexdigest()[:16]


class _LimitedReads:
    """A file whose single reads are limited; tarfile reads a header of any size at once."""

    def __init__(self, file: Any) -> None:
        self._file = file
        self.seek, self.tell = file.seek, file.tell

    def read(self, size: int = -1) -> bytes:
        """Read at most MAX_READ_BYTES. Raises TarError for a larger read."""
        if not 0 <= size <= MAX_READ_BYTES:
            raise tarfile.TarError(f"a header of {size:,} bytes is larger than {MAX_READ_BYTES:,}")
        data: bytes = self._file.read(size)
        return data


def _read_headers(address: str, state: str) -> list[ShardEntry]:
    import fsspec

    media: dict[str, list[TarMember]] = {}
    texts: dict[str, dict[str, str]] = {}
    problems: dict[str, str] = {}
    try:
        with (
            fsspec.open(address, "rb") as file,
            tarfile.open(fileobj=cast("IO[bytes]", _LimitedReads(file)), mode="r:") as tar,
        ):
            for member in tar:
                key, suffix = _key(member.name), _suffix(member.name)
                if not member.isfile() or suffix not in (*SUFFIX_KINDS, *TEXT_SUFFIXES):
                    continue
                problem = _problem(member, suffix)
                if problem:
                    problems.setdefault(key, problem)
                elif suffix in SUFFIX_KINDS:
                    place = TarMember(address, member.name, member.offset_data, member.size, state)
                    media.setdefault(key, []).append(place)
                else:
                    content = tar.extractfile(member)
                    assert content is not None
                    try:
                        texts.setdefault(key, {})[suffix] = content.read().decode("utf-8-sig")
                    except UnicodeDecodeError as error:
                        problems.setdefault(key, f"{member.name} is not UTF-8 text ({error.reason})")
    except (OSError, tarfile.TarError, UnicodeError) as error:
        raise DataError(
            f"{address} is not a complete, uncompressed tar file ({error}). Download or decompress it again."
        ) from error
    keys = dict.fromkeys([*media, *texts, *problems])
    return [ShardEntry(key, tuple(media.get(key, ())), texts.get(key, {}), problems.get(key, "")) for key in keys]


def _problem(member: tarfile.TarInfo, suffix: str) -> str | None:
    """Return why a member is not read, or None."""
    limit = MAX_MEDIUM_BYTES if suffix in SUFFIX_KINDS else MAX_TEXT_BYTES
    if member.size > limit:
        return f"{member.name} has {member.size:,} bytes, more than {limit:,}"
    if member.issparse():
        return f"{member.name} is stored as a sparse file"
    return None


def _key(name: str) -> str:
    path = PurePosixPath(name)
    return str(path.with_name(path.name.split(".")[0]))


def _suffix(name: str) -> str:
    return name.rpartition(".")[2].lower()
