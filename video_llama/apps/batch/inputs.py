"""The rows of a batch run: media from a folder, a pattern, a single file or a table, each with a question.

Rows are read again for each pass, so that a table of any size needs little memory.
"""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path, PurePath, PurePosixPath

from video_llama.apps.batch.shards import SHARD_ENDING, rows_of_shards
from video_llama.apps.batch.stores import is_address, stored_files, table_copy
from video_llama.datasets.question_rows import QuestionRow, question_rows
from video_llama.errors import DataError

TABLE_ENDINGS = (".jsonl", ".json", ".csv", ".tsv")
MEDIA_ENDINGS = frozenset(
    (
        *(".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".ts", ".flv", ".wmv", ".ogv", ".3gp"),
        *(".wav", ".mp3", ".flac", ".m4a", ".aac", ".ogg", ".opus", ".wma", ".aiff"),
        *(".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".avif", ".heic"),
    )
)
"""Endings of the files that are used of a folder, in lower case. Files with other endings are ignored."""


@dataclass(frozen=True)
class BatchInput:
    """Where the rows come from."""

    source: str
    """A folder (with its subfolders), a pattern such as ``clips/*.mp4``, a media file, a JSONL, JSON, CSV or TSV file
    of rows (datasets/question_rows.py), or WebDataset shards (``.tar``). Also at an address such as ``s3://``."""
    question: str | None = None
    """Question about each medium. Rows of a table that have a question keep theirs."""
    media_dir: Path | None = None
    """Folder of the relative paths in a table (default: the folder of the table)."""
    index_dir: Path | None = None
    """Folder for the headers of tar shards, so that they are read once. None: they are read for each pass."""
    needs_question: bool = True
    """Whether a row without a question is an error."""

    @property
    def table(self) -> Path | None:
        """The table of rows, or its local copy; None if the source is not a table.

        Raises DataError if the table is at an address that cannot be read.
        """
        if Path(self.source).suffix.lower() not in TABLE_ENDINGS or os.path.isdir(self.source):
            return None
        return table_copy(self.source) if is_address(self.source) else Path(self.source)

    def rows(self) -> Iterator[QuestionRow]:
        """Yield the rows, each with a question.

        Raises DataError for a source that does not exist, and for a row without a medium or a question, with a key of
        the wrong type, or with an id that occurs twice.
        """
        if self.source.endswith(SHARD_ENDING) and not os.path.isdir(self.source):
            yield from map(self._with_question, rows_of_shards(self.source, self.index_dir))
            return
        if (table := self.table) is not None:
            yield from map(self._with_question, self._table_rows(table))
            return
        if self.question is None and self.needs_question:
            raise DataError(f"{self.source} has no questions. Give one with --question, or a table with questions.")
        for row_id, path in self._files():
            yield QuestionRow(row_id, (path,), self.question)

    def _table_rows(self, table: Path) -> Iterator[QuestionRow]:
        """Yield the rows of a table. In a table at an address, relative paths begin at the folder of the address."""
        if self.media_dir is not None or not is_address(self.source):
            yield from question_rows(table, self.media_dir)
            return
        folder = self.source.rpartition("/")[0]
        for row in question_rows(table, Path()):
            media = (each if is_address(each) or each.startswith("/") else f"{folder}/{each}" for each in row.media)
            yield replace(row, media=tuple(media))

    def _with_question(self, row: QuestionRow) -> QuestionRow:
        if row.question is None and self.question is None and self.needs_question:
            raise DataError(f"{self.source}: row {row.id} has no question. Add one, or give --question.")
        return row if row.question is not None else replace(row, question=self.question)

    def _files(self) -> Iterator[tuple[str, str]]:
        """Yield the id and the path of each medium."""
        if is_address(self.source):
            if self.source.startswith(("http://", "https://")):
                raise DataError(f"{self.source} is a URL. Put it into a table, in a row with the key 'media'.")
            files = stored_files(self.source)
            yield from (file for file in files if len(files) == 1 or _is_medium(PurePosixPath(file[0])))
        elif os.path.isdir(self.source):
            yield from _folder_files(Path(self.source))
        elif os.path.exists(self.source):
            yield Path(self.source).name, self.source
        elif glob.has_magic(self.source):
            yield from ((path, path) for path in sorted(glob.glob(self.source, recursive=True)) if os.path.isfile(path))
        else:
            raise DataError(f"{self.source} does not exist. Give a folder, a pattern in quotes, or a table.")


def _folder_files(folder: Path) -> Iterator[tuple[str, str]]:
    """Yield the id (the path below ``folder``) and the path of each media file, sorted by folder and name."""
    for parent, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            path = Path(parent, name)
            if _is_medium(path):
                yield path.relative_to(folder).as_posix(), str(path)


def _is_medium(path: PurePath) -> bool:
    return path.suffix.lower() in MEDIA_ENDINGS and not path.name.startswith(".")
