"""Answer batches of rows in this process, or in several processes with a model each.

Batches and their results are in the same order in both cases, so that the number of workers changes no result. A worker
ends when its parent process does, also if that was killed.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context, parent_process
from typing import Any, Protocol

import torch

from video_llama.chat import Assistant
from video_llama.datasets.question_rows import QuestionRow
from video_llama.errors import WorkerError
from video_llama.evaluation.answering import Result, RowAnswerer
from video_llama.evaluation.config import BenchmarkConfig

Loader = Callable[[int | None], Assistant]
"""Loads the model. The argument is the number of the worker, from 0; None without worker processes."""

BATCHES_PER_WORKER = 2
"""Batches that wait for each worker, so that none is idle; more would only be computed again after an interruption."""

RowBatch = Sequence[QuestionRow]


class Workers(Protocol):
    """What answers the rows."""

    def weights(self) -> dict[str, Any]:
        """Return the description of the weights, as in the records of answers."""

    def results(self, batches: Iterable[RowBatch]) -> Iterator[list[Result]]:
        """Yield the results of the batches, in order."""

    def close(self) -> None:
        """End the processes."""


class InProcess:
    """Answers in this process."""

    def __init__(self, load: Loader, config: BenchmarkConfig) -> None:
        self._assistant = load(None)
        self._answer = RowAnswerer(self._assistant, config)

    def weights(self) -> dict[str, Any]:
        return self._assistant.engine.weights

    def results(self, batches: Iterable[RowBatch]) -> Iterator[list[Result]]:
        return map(self._answer, batches)

    def close(self) -> None:
        """Has nothing to end."""


class Processes:
    """Answers in ``num_workers`` processes. ``load`` must be picklable.

    Raises WorkerError if a process ends unexpectedly.
    """

    def __init__(self, load: Loader, config: BenchmarkConfig, num_workers: int) -> None:
        context = get_context("spawn")
        self._num_workers = num_workers
        self._pool = ProcessPoolExecutor(
            num_workers, context, initializer=_start, initargs=(load, config, context.Value("i", 0), num_workers)
        )

    def weights(self) -> dict[str, Any]:
        described: dict[str, Any] = _result_of(self._pool.submit(_weights))
        return described

    def results(self, batches: Iterable[RowBatch]) -> Iterator[list[Result]]:
        waiting: deque[Future[list[Result]]] = deque()
        for batch in batches:
            waiting.append(self._submit(batch))
            if len(waiting) >= BATCHES_PER_WORKER * self._num_workers:
                yield _result_of(waiting.popleft())
        while waiting:
            yield _result_of(waiting.popleft())

    def _submit(self, batch: RowBatch) -> Future[list[Result]]:
        try:
            return self._pool.submit(_answer, batch)
        except BrokenProcessPool as error:
            raise _ended() from error

    def close(self) -> None:
        self._pool.shutdown(cancel_futures=True)


def make_workers(load: Loader, config: BenchmarkConfig, num_workers: int) -> Workers:
    """Return what answers the rows. Raises ValueError for fewer than one worker."""
    if num_workers < 1:
        raise ValueError(f"workers is {num_workers}. Give 1 or more.")
    return InProcess(load, config) if num_workers == 1 else Processes(load, config, num_workers)


def _result_of(future: Future[Any]) -> Any:
    try:
        return future.result()
    except BrokenProcessPool as error:
        raise _ended() from error


def _ended() -> WorkerError:
    return WorkerError(
        "A worker process ended unexpectedly, perhaps because the memory was full. Run the same command again to "
        "continue, with fewer workers."
    )


_model: Assistant | None = None
_answerer: RowAnswerer | None = None


def _start(load: Loader, config: BenchmarkConfig, counter: Any, num_workers: int) -> None:
    """Prepare a worker process: load the model, and end with the parent process."""
    global _model, _answerer
    threading.Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(max(1, torch.get_num_threads() // num_workers))
    with counter.get_lock():
        number = counter.value
        counter.value += 1
    _model = load(number)
    _answerer = RowAnswerer(_model, config)


def _end_with_parent() -> None:
    parent = parent_process()
    assert parent is not None, "runs in a child process"
    parent.join()
    os._exit(1)


def _weights() -> dict[str, Any]:
    assert _model is not None, "set when the process starts"
    return _model.engine.weights


def _answer(batch: RowBatch) -> list[Result]:
    assert _answerer is not None, "set when the process starts"
    return _answerer(batch)
