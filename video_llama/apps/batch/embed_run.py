"""An embedding run: media in, vectors out, in a Parquet or NumPy file. Continued and distributed as ``run.py``."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import video_llama
from video_llama.apps.batch.embedding import load_bulk_embedder
from video_llama.apps.batch.engines import BulkLoader, ModelDescription
from video_llama.apps.batch.run import PARQUET, BatchRunConfig
from video_llama.apps.batch.vector_files import write_npz, write_vector_parquet
from video_llama.chat import Assistant, MediaOptions
from video_llama.errors import DataError
from video_llama.files import sha256

NPZ = ".npz"


@dataclass(frozen=True)
class EmbedRunConfig(BatchRunConfig):
    """The settings of a run. ``decoding`` is not used."""

    endings: ClassVar[tuple[str, ...]] = (PARQUET, NPZ)

    def check(self) -> None:
        """Raise the errors of ``BatchRunConfig.check``, and DataError for a row with several media."""
        super().check()
        for row in self.data.rows():
            if len(row.media) != 1:
                raise DataError(f"{self.data.source}: row {row.id} has {len(row.media)} media. Give one per row.")

    def worker(self, load: Callable[[int | None], Assistant]) -> BulkLoader:
        """Return the function that loads the model of a worker."""
        return partial(load_bulk_embedder, load)

    def settings(self, media: MediaOptions, model: ModelDescription) -> dict[str, Any]:
        """Return what determines the vectors."""
        return {
            "data_sha256": None if (table := self.data.table) is None else sha256(table),
            "media": asdict(media),
            "batch_size": self.batch_size,
            "weights": model.weights,
            "version": video_llama.__version__,
        }

    def write(self, rows: Iterator[dict[str, Any]]) -> None:
        """Write the output from the rows of a finished run."""
        writers: dict[str, Callable[[Iterator[dict[str, Any]], Path], None]]
        writers = {PARQUET: write_vector_parquet, NPZ: write_npz}
        writers[self.output.suffix](rows, self.output)
