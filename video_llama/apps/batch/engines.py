"""Where a batch run reads media and answers: the processes of this machine, or Ray (``ray_engine.py``).

An engine takes batches of rows and yields the results of each.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from video_llama.apps.batch.limits import BatchLimits
from video_llama.apps.batch.reading import BatchReader, ReadBatch, ReadingTimes
from video_llama.apps.media.pool import MediaNeeds
from video_llama.apps.ray_start import RayResources
from video_llama.datasets.question_rows import QuestionRow
from video_llama.evaluation.workers import Loader, make_workers
from video_llama.processors.medium import MediaOptions

EngineName = Literal["local", "ray"]
Batches = Iterable[Sequence[QuestionRow]]


@dataclass(frozen=True)
class ModelDescription:
    """What a run has to know about the model."""

    needs: MediaNeeds
    weights: dict[str, Any]


@dataclass(frozen=True)
class BatchResult:
    """The results of a batch in the order of its rows, and the seconds that encoding and generation took."""

    rows: list[dict[str, Any]]
    encode: float
    generate: float


BulkLoader = Loader[ReadBatch, BatchResult]


@dataclass(frozen=True)
class EngineOptions(RayResources):
    """Which engine, and the options of Ray. The number of workers is an option of both."""

    name: EngineName = "local"
    max_workers: int | None = None
    """Ray: number of workers to which the pool may grow. None: it does not grow."""

    def check(self, workers: int) -> None:
        """Raise ValueError for values out of range, and for options of Ray without Ray."""
        if self.name not in ("local", "ray"):
            raise ValueError(f"engine is {self.name!r}. Choose local or ray.")
        if self.name == "local" and self != EngineOptions():
            raise ValueError("max_workers, num_cpus, num_gpus and address are options of Ray. Add --engine ray.")
        self.check_pool("workers", workers, self.max_workers)


class BulkEngine(Protocol):
    """Reads media and answers batches."""

    times: ReadingTimes
    """Times of reading, of the results so far."""

    def description(self) -> ModelDescription:
        """Return the description of the model."""

    def results(self, batches: Batches, media: MediaOptions) -> Iterator[BatchResult]:
        """Yield the results of the batches, in any order."""

    def close(self) -> None:
        """End the processes."""


class LocalEngine:
    """Reads media in processes of this machine and answers in this process, or in ``workers`` others."""

    def __init__(self, load: BulkLoader, workers: int, limits: BatchLimits, batch_size: int) -> None:
        self.times = ReadingTimes()
        self._limits, self._batch_size = limits, batch_size
        self._workers = make_workers(load, workers)
        self._reader: BatchReader | None = None

    def description(self) -> ModelDescription:
        description: ModelDescription = self._workers.description()
        return description

    def results(self, batches: Batches, media: MediaOptions) -> Iterator[BatchResult]:
        self._reader = BatchReader(self.description().needs, self._limits, media, self._batch_size)
        self.times = self._reader.times
        return self._workers.results(self._reader.read(batches))

    def close(self) -> None:
        if self._reader is not None:
            self._reader.close()
        self._workers.close()


def make_engine(
    options: EngineOptions, load: BulkLoader, workers: int, limits: BatchLimits, batch_size: int
) -> BulkEngine:
    """Return the engine. Raises ValueError for fewer than one worker, MissingExtraError without Ray."""
    if options.name == "local":
        return LocalEngine(load, workers, limits, batch_size)
    from video_llama.apps.batch.ray_engine import RayEngine

    return RayEngine(load, workers, options, limits, batch_size)
