"""Read the rows of JSON, JSONL, CSV and TSV files, each with a name for errors: ``file:line``.

JSONL and tables are read line by line, so that a file of any size can be used.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from video_llama.errors import DataError
from video_llama.files import parse_json, text_encoding
from video_llama.files import read_json as read_json_file

NamedRow = tuple[str, Any]
"""The name of a row ("file:line", for errors and reports) and its content."""


def named_rows(path: Path) -> Iterator[NamedRow]:
    """Yield the rows of a file by the ending of its name: ``.csv`` or ``.tsv`` with a header, else JSON or JSONL."""
    return table_rows(path) if path.suffix in (".csv", ".tsv") else json_rows(path)


def read_json(path: Path) -> Any:
    """Return the content of a JSON file. Raises DataError if it is missing or invalid."""
    try:
        return read_json_file(path, max_bytes=None)
    except FileNotFoundError as error:
        raise DataError(f"{path} is missing. Correct the path, or download the annotations first.") from error
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read as JSON: {error}. Download it again.") from error


def json_rows(path: Path) -> Iterator[NamedRow]:
    """Yield the rows of a JSON list, numbered from 0, or of a .jsonl file, by line number from 1.

    Raises DataError for other content.
    """
    if path.suffix == ".jsonl":
        yield from _json_lines(path)
        return
    rows = read_json(path)
    if not isinstance(rows, list):
        raise DataError(f"{path} contains a {type(rows).__name__}, not a list of rows. Check the path.")
    for number, row in enumerate(rows):
        yield f"{path}:{number}", row


def _json_lines(path: Path) -> Iterator[NamedRow]:
    number = 0
    try:
        with path.open(encoding=text_encoding(path)) as file:
            for number, line in enumerate(file, start=1):
                if line.strip():
                    yield f"{path}:{number}", parse_json(line)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}. Correct the path.") from error
    except ValueError as error:
        raise DataError(f"{path}:{number or 1} is not one JSON object per line: {error}. Correct this line.") from error


def table_rows(path: Path, delimiter: str | None = None) -> Iterator[NamedRow]:
    """Yield the rows of a table with a header, as texts by column. ``delimiter`` is a tab for ``.tsv``, else a comma.

    Raises DataError if the file cannot be read.
    """
    number = 1
    try:
        with path.open(newline="", encoding=text_encoding(path)) as file:
            rows = csv.DictReader(file, delimiter=delimiter or ("\t" if path.suffix == ".tsv" else ","))
            for number, row in enumerate(rows, start=2):
                yield f"{path}:{number}", row
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}. Correct the path.") from error
    except (csv.Error, UnicodeError) as error:
        raise DataError(f"{path}: cannot be read as a table after row {number}: {error}. Correct this row.") from error


def text_value(row: Any, key: str, name: str) -> str:
    """Return the text or number under ``key``. Raises DataError if it is missing, empty or of another type."""
    found = row.get(key) if isinstance(row, dict) else None
    if found is None or found == "":
        raise DataError(f"{name}: the row has no {key!r}. Correct or remove it.")
    if not isinstance(found, str | int):
        raise DataError(f"{name}: {key!r} is {found!r}, not a text. Correct or remove the row.")
    return str(found)
