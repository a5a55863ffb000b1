"""Annotation files in, named rows out: JSON and JSONL. A row's name is "file:place", for messages and reports."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from video_llama.datasets.config import BuildInfo
from video_llama.errors import DataError

Named = tuple[str, Any]
"""A row and its name."""


def read_json(path: Path) -> Any:
    """The content of a JSON file. Raises DataError where it is missing or no JSON."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise DataError(f"{path} is missing. Correct the path, or fetch the annotations first.") from error
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read as JSON: {error}. Fetch it again.") from error


def json_rows(path: Path) -> Iterator[Named]:
    """The rows of a JSON list, from 0, or of a .jsonl file, by their line from 1. DataError if it is neither."""
    if path.suffix == ".jsonl":
        yield from _lines(path)
        return
    rows = read_json(path)
    if not isinstance(rows, list):
        raise DataError(f"{path} holds a {type(rows).__name__}, not a list of rows. Is it another file?")
    for number, row in enumerate(rows):
        yield f"{path}:{number}", row


def _lines(path: Path) -> Iterator[Named]:
    number = 0
    try:
        with path.open(encoding="utf-8") as file:
            for number, line in enumerate(file, start=1):
                if line.strip():
                    yield f"{path}:{number}", json.loads(line)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}. Correct the path.") from error
    except ValueError as error:
        place = f"{path}:{number or 1}"
        raise DataError(f"{place} cannot be read as one JSON object a line: {error}. Repair that line.") from error


def value(row: Any, key: str, name: str) -> str:
    """A row's text or number under ``key``. Raises DataError where it is missing, empty or something else."""
    found = row.get(key) if isinstance(row, dict) else None
    if found is None or found == "":
        raise DataError(f"{name}: the row has no {key!r}. Repair or drop it.")
    if not isinstance(found, str | int):
        raise DataError(f"{name}: {key!r} holds {found!r}, not a text. Repair or drop the row.")
    return str(found)


def given(info: BuildInfo, where: str, key: Literal["anno_dir", "videos_dir", "storage"]) -> Path:
    """Return a path of ``build_info``. Raises DataError if it is not given or does not exist."""
    path = getattr(info, key)
    if path is None:
        raise DataError(f"{where}.build_info.{key} is not given. Set it to the path of the data set.")
    if not path.exists():
        remedy = info.how_to_get or "Correct the path, or download the data first."
        raise DataError(f"{where}.build_info.{key}: {path} does not exist. {remedy}")
    return Path(path)
