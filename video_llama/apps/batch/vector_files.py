"""Write the vectors of media as Parquet (one row per medium) or as NumPy arrays."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from video_llama.apps.batch.embedding import unpacked
from video_llama.apps.batch.parquet import row_groups, utf8_text
from video_llama.files import new_file

VECTOR_ROWS_PER_GROUP = 200
"""Fewer than for answers, as a row can have a megabyte."""


def write_vector_parquet(rows: Iterable[Mapping[str, Any]], path: Path) -> None:
    """Write vectors to ``path``, which is replaced when all are written.

    Columns: id, kind, error (strings), media (list of strings), frame_seconds and audio_seconds (lists of doubles),
    frame_vectors and audio_vectors (lists of lists of floats), clip_vector (list of floats, or null).
    """
    import pyarrow  # type: ignore[import-untyped]
    import pyarrow.parquet  # type: ignore[import-untyped]

    vector = pyarrow.list_(pyarrow.float32())
    fields = [(name, pyarrow.string()) for name in ("id", "kind", "error")]
    fields.append(("media", pyarrow.list_(pyarrow.string())))
    fields += [(f"{name}_seconds", pyarrow.list_(pyarrow.float64())) for name in ("frame", "audio")]
    fields += [(f"{name}_vectors", pyarrow.list_(vector)) for name in ("frame", "audio")]
    schema = pyarrow.schema([*fields, ("clip_vector", vector)])
    with new_file(path) as unfinished, pyarrow.parquet.ParquetWriter(unfinished, schema) as writer:
        for group in row_groups(map(_as_columns, rows), VECTOR_ROWS_PER_GROUP):
            writer.write_table(pyarrow.Table.from_pylist(group, schema))


def write_npz(rows: Iterable[Mapping[str, Any]], path: Path) -> None:
    """Write vectors of R media to ``path`` as a ``.npz`` file, which is replaced when all are written.

    Arrays: ids, media, kinds, errors [R] (texts; "" for none), clip_vectors [C, H] with clip_rows [C], frame_vectors
    [F, H] with frame_rows and frame_seconds [F], audio_vectors [A, E] with audio_rows and audio_seconds [A]. ``*_rows``
    are indices of media, from 0. All vectors are in memory while the file is written.
    """
    texts: dict[str, list[str]] = {"ids": [], "media": [], "kinds": [], "errors": []}
    vectors: dict[str, list[np.ndarray]] = {"clip": [], "frame": [], "audio": []}
    places: dict[str, list[int]] = {name: [] for name in vectors}
    seconds: dict[str, list[float]] = {"frame": [], "audio": []}
    for number, row in enumerate(rows):
        texts["ids"].append(utf8_text(row["id"]))
        texts["media"].append(utf8_text(row["media"][0]))
        texts["kinds"].append(row["kind"] or "")
        texts["errors"].append(utf8_text(row["error"] or ""))
        if row["clip_vector"]:
            vectors["clip"].append(unpacked(row["clip_vector"])[None])
            places["clip"].append(number)
        for name in ("frame", "audio"):
            if row[f"{name}_vectors"]:
                vectors[name].append(unpacked(row[f"{name}_vectors"]))
                places[name] += [number] * len(vectors[name][-1])
                seconds[name] += row[f"{name}_seconds"]
    arrays: dict[str, np.ndarray] = {name: np.array(values, dtype=str) for name, values in texts.items()}
    for name, each in vectors.items():
        arrays[f"{name}_vectors"] = np.concatenate(each) if each else np.zeros((0, 0), np.float32)
        arrays[f"{name}_rows"] = np.array(places[name], dtype=np.int64)
    arrays.update({f"{name}_seconds": np.array(values, dtype=np.float64) for name, values in seconds.items()})
    with new_file(path) as unfinished, unfinished.open("wb") as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]


def _as_columns(row: Mapping[str, Any]) -> dict[str, Any]:
    columns = {name: row[name] for name in ("kind", "frame_seconds", "audio_seconds")}
    columns |= {name: None if row[name] is None else utf8_text(row[name]) for name in ("id", "error")}
    columns["media"] = [utf8_text(each) for each in row["media"]]
    columns["clip_vector"] = None if row["clip_vector"] is None else unpacked(row["clip_vector"])
    for name in ("frame_vectors", "audio_vectors"):
        columns[name] = [] if row[name] is None else list(unpacked(row[name]))
    return columns
