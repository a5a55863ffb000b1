"""Rows of WebDataset shards: the media of each sample, with the question of its ``.json`` file, if any."""

from __future__ import annotations

import glob
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path, PurePosixPath

from video_llama.apps.batch.stores import MemberPath, check_address, is_address, stored_files
from video_llama.datasets.question_rows import QuestionRow, rows_of
from video_llama.datasets.webdataset import ShardEntry, expand_pattern, json_values, shard_rows
from video_llama.errors import DataError, MediaError

SHARD_ENDING = ".tar"


def shard_addresses(pattern: str) -> list[str]:
    """Return the shards of a pattern: ``part-{000..099}.tar``, ``shards/*.tar``, ``s3://bucket/part-*.tar``, or one.

    Raises DataError if a wildcard matches nothing, and for http(s) and other addresses that are no object store.
    """
    if pattern.lower().startswith(("http://", "https://")):
        raise DataError(f"{pattern}: shards are not read over http. Download them, or use an object store.")
    if is_address(pattern):
        try:
            check_address(pattern)
        except MediaError as error:
            raise DataError(str(error)) from error
    found: list[str] = []
    for each in expand_pattern(pattern):
        if not glob.has_magic(each):
            found.append(each)
        elif is_address(each):
            found += [address for _, address in stored_files(each)]
        else:
            found += sorted(glob.glob(each, recursive=True))
    if not found:
        raise DataError(f"{pattern} matches no shard. Correct the pattern, in quotes.")
    return found


def rows_of_shards(pattern: str, index_dir: Path | None) -> Iterator[QuestionRow]:
    """Yield the rows of all shards. The id is ``SHARD/KEY``, without the folder and the ending of the shard.

    Raises DataError for a shard or a sample that cannot be used, and for two shards of the same name.
    """
    seen: set[str] = set()
    for name, entry in shard_rows(shard_addresses(pattern), index_dir):
        shard = PurePosixPath(name[: -len(entry.key) - 1]).name.removesuffix(SHARD_ENDING)
        for row in _rows(f"{shard}/{entry.key}", name, entry):
            if row.id in seen:
                raise DataError(f"{name}: the id {row.id!r} occurs twice. Give shards and samples different names.")
            seen.add(row.id)
            yield row


def _rows(row_id: str, name: str, entry: ShardEntry) -> Iterator[QuestionRow]:
    if entry.problem:
        raise DataError(f"{name}: {entry.problem}. Correct or remove it.")
    if not entry.media:
        raise DataError(f"{name}: the sample has no medium. Add one, or remove it.")
    media = tuple(MemberPath(member) for member in entry.media)
    values = json_values(entry, name) if "json" in entry.texts else {}
    kept = {key: value for key, value in values.items() if key in ("question", "questions", "start", "end")}
    for row in rows_of(name, {**kept, "id": row_id, "media": [str(each) for each in media]}):
        yield replace(row, media=media)
