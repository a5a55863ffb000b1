"""Write results as Parquet (extra ``parquet``)."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from video_llama.errors import MissingExtraError
from video_llama.files import new_file

ROWS_PER_GROUP = 1000
TEXTS = ("id", "question", "answer", "error")


def require_pyarrow() -> None:
    """Raise MissingExtraError if pyarrow is not installed."""
    try:
        import pyarrow.parquet  # type: ignore[import-untyped]  # noqa: F401
    except ImportError as error:
        raise MissingExtraError("pyarrow", "parquet") from error


def write_parquet(rows: Iterable[Mapping[str, Any]], path: Path, *, with_timeline: bool = False) -> None:
    """Write results to ``path``, which is replaced when all are written.

    Columns: id, question, answer, error (strings), media (list of strings), record (JSON text, or null).
    ``with_timeline`` adds the column timeline (JSON text, or null).
    """
    import pyarrow
    import pyarrow.parquet

    texts = [(name, pyarrow.string()) for name in (*TEXTS, "record", *(["timeline"] if with_timeline else []))]
    schema = pyarrow.schema([*texts, ("media", pyarrow.list_(pyarrow.string()))])
    with new_file(path) as unfinished, pyarrow.parquet.ParquetWriter(unfinished, schema) as writer:
        for group in row_groups(map(_as_columns, rows)):
            writer.write_table(pyarrow.Table.from_pylist(group, schema))


def _as_columns(row: Mapping[str, Any]) -> dict[str, Any]:
    objects = {name: None if row.get(name) is None else json.dumps(row[name]) for name in ("record", "timeline")}
    texts = {name: None if row[name] is None else utf8_text(row[name]) for name in TEXTS}
    return {**texts, **objects, "media": [utf8_text(path) for path in row["media"]]}


def utf8_text(text: str) -> str:
    """Escape what is no text, such as the bytes of a file name that is not UTF-8."""
    return text.encode(errors="backslashreplace").decode()


def row_groups(rows: Iterator[dict[str, Any]], size: int = ROWS_PER_GROUP) -> Iterator[list[dict[str, Any]]]:
    """Yield lists of ``size`` rows; the last may be shorter."""
    while group := list(islice(rows, size)):
        yield group
