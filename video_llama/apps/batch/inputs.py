"""The rows of a batch run: media from a folder, a pattern, a single file or a table, each with a question.

Rows are read again for each pass, so that a table of any size needs little memory.
"""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

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
    """A folder (with its subfolders), a pattern such as ``clips/*.mp4``, a media file, or a JSONL, JSON, CSV or TSV
    file of rows (datasets/question_rows.py)."""
    question: str | None = None
    """Question about each medium. Rows of a table that have a question keep theirs."""
    media_dir: Path | None = None
    """Folder of the relative paths in a table (default: the folder of the table)."""

    @property
    def is_table(self) -> bool:
        """Whether the source is a table of rows."""
        return Path(self.source).suffix.lower() in TABLE_ENDINGS and not os.path.isdir(self.source)

    def rows(self) -> Iterator[QuestionRow]:
        """Yield the rows, each with a question.

        Raises DataError for a source that does not exist, and for a row without a medium or a question, with a key of
        the wrong type, or with an id that occurs twice.
        """
        if self.is_table:
            yield from map(self._with_question, question_rows(Path(self.source), self.media_dir))
            return
        if self.question is None:
            raise DataError(f"{self.source} has no questions. Give one with --question, or a table with questions.")
        for row_id, path in self._files():
            yield QuestionRow(row_id, (path,), self.question)

    def _with_question(self, row: QuestionRow) -> QuestionRow:
        if row.question is None and self.question is None:
            raise DataError(f"{self.source}: row {row.id} has no question. Add one, or give --question.")
        return row if row.question is not None else replace(row, question=self.question)

    def _files(self) -> Iterator[tuple[str, str]]:
        """Yield the id and the path of each medium."""
        if os.path.isdir(self.source):
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
            if path.suffix.lower() in MEDIA_ENDINGS and not name.startswith("."):
                yield path.relative_to(folder).as_posix(), str(path)
