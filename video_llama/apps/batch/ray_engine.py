"""Answer batches with Ray Data (extra ``scale``): media are read by one pool of actors and answered by another.

The actors run the code of the local engine: ``BatchReader`` with one decoding process, and the loaded model. Ray Data
distributes the batches, holds them back while the next stage is busy, adds actors while they are needed, starts dead
actors again and repeats their batches. Results arrive as they are computed, in any order.
"""

from __future__ import annotations

import math
import pickle
from collections.abc import Iterator, Sequence
from typing import Any

from video_llama.apps.batch.engines import Batches, BatchResult, BulkLoader, EngineOptions, ModelDescription
from video_llama.apps.batch.limits import BatchLimits
from video_llama.apps.batch.reading import BatchReader, ReadingTimes
from video_llama.apps.media.pool import MediaNeeds
from video_llama.apps.ray_start import start_ray
from video_llama.errors import VideoLlamaError, WorkerError
from video_llama.processors.medium import MediaOptions

MAX_BLOCKS = 10_000
"""Ray holds the rows in at most this number of blocks. The batches of a block are one task."""
COLUMN = "batch"
"""The only column of the data sets: one pickled batch per row."""


class RayEngine:
    """Reads media and answers in the actors of Ray. Uses the Ray of this process, if it has one.

    Raises MissingExtraError without Ray.
    """

    def __init__(
        self, load: BulkLoader, workers: int, options: EngineOptions, limits: BatchLimits, batch_size: int
    ) -> None:
        if workers < 1:
            raise ValueError(f"workers is {workers}. Give 1 or more.")
        self.times = ReadingTimes()
        self._load, self._options, self._limits, self._batch_size = load, options, limits, batch_size
        self._workers = (workers, options.max_workers or workers)
        self._description: ModelDescription | None = None
        # One core for a reader, and one for the process that Ray starts to describe the model.
        num_cpus = math.ceil(1 + self._workers[0] * options.num_cpus)
        self._is_ours = start_ray(options.address, num_cpus, limits.object_store_bytes)

    def description(self) -> ModelDescription:
        """Load the model once in a process of Ray, which ends afterwards, and return its description."""
        import ray

        if self._description is None:
            options = {"num_cpus": self._options.num_cpus, "num_gpus": self._options.num_gpus, "max_calls": 1}
            try:
                self._description = ray.get(ray.remote(**options)(_describe).remote(self._load))
            except ray.exceptions.RayTaskError as error:
                raise _cause(error) from error
            except ray.exceptions.RayError as error:
                raise _failure(error) from error
        return self._description

    def results(self, batches: Batches, media: MediaOptions) -> Iterator[BatchResult]:
        """Yield the results of the batches, in any order."""
        import ray
        from ray.data import ActorPoolStrategy

        tasks = [pickle.dumps(list(rows)) for rows in batches]
        if not tasks:
            return
        read_arguments = (self.description().needs, self._limits, media, self._batch_size)
        data = (
            ray.data.from_items([{COLUMN: task} for task in tasks], override_num_blocks=min(len(tasks), MAX_BLOCKS))
            .map_batches(
                ReadingActor,
                fn_constructor_args=read_arguments,
                compute=ActorPoolStrategy(min_size=1, max_size=self._limits.media_workers),
                num_cpus=1,
                batch_size=1,
            )
            .map_batches(
                AnsweringActor,
                fn_constructor_args=(self._load,),
                compute=ActorPoolStrategy(min_size=self._workers[0], max_size=self._workers[1]),
                num_cpus=self._options.num_cpus,
                num_gpus=self._options.num_gpus or None,
                batch_size=1,
            )
        )
        try:
            for row in data.iter_rows():
                result, times = pickle.loads(row[COLUMN])
                self.times.add(**times)
                yield result
        except ray.exceptions.RayTaskError as error:
            raise _cause(error) from error
        except ray.exceptions.RayError as error:
            raise _failure(error) from error

    def close(self) -> None:
        """End Ray, if it was started here."""
        if self._is_ours:
            import ray

            ray.shutdown()


class ReadingActor:
    """Reads the media of batches, with one decoding process."""

    def __init__(self, needs: MediaNeeds, limits: BatchLimits, media: MediaOptions, batch_size: int) -> None:
        self._reader = BatchReader(needs, limits.model_copy(update={"media_workers": 1}), media, batch_size)

    def __call__(self, column: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """Yield each batch of rows with its media, and the times of reading them."""
        for rows in _unpickled(column):
            before = self._reader.times.values()
            [batch] = self._reader.read([rows])
            after = self._reader.times.values()
            yield _pickled((batch, {**{name: after[name] - before[name] for name in after}, "wait": 0.0}))


class AnsweringActor:
    """Answers batches whose media are read, with a model of its own."""

    def __init__(self, load: BulkLoader) -> None:
        self._answer = load(None)

    def __call__(self, column: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """Yield the results of each batch, and the times of reading."""
        for batch, times in _unpickled(column):
            yield _pickled((self._answer(batch), times))


def _describe(load: BulkLoader) -> ModelDescription:
    description: ModelDescription = load(None).description()
    return description


def _pickled(value: Any) -> dict[str, Any]:
    return {COLUMN: [pickle.dumps(value)]}


def _unpickled(column: dict[str, Sequence[bytes]]) -> Iterator[Any]:
    return map(pickle.loads, column[COLUMN])


def _cause(error: Any) -> Exception:
    """Return the error of the package that an actor raised, or a WorkerError."""
    cause = error.cause
    while cause is not None:
        if isinstance(cause, VideoLlamaError):
            return cause
        cause = getattr(cause, "cause", None) or cause.__cause__
    return _failure(error)


def _failure(error: Exception) -> WorkerError:
    line = str(error).strip().splitlines()[-1] if str(error).strip() else type(error).__name__
    return WorkerError(f"A task of Ray failed: {line}. Run the same command again to continue; --debug shows more.")
