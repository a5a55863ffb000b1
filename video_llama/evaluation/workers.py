"""Answer batches in this process, or in several processes with a model each.

Batches and their results are in the same order in both cases, so that the number of workers changes no result. A worker
ends when its parent process does, also if that was killed.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context, parent_process
from typing import Any, Generic, Protocol, TypeVar

import torch

from video_llama.errors import WorkerError

Given = TypeVar("Given", contravariant=True)
Answered = TypeVar("Answered", covariant=True)


class BatchAnswerer(Protocol[Given, Answered]):
    """A loaded model that answers batches."""

    def description(self) -> Any:
        """Return what the run has to know about the model. Picklable, as batches and results are."""

    def __call__(self, batch: Given, /) -> Answered:
        """Return the results of a batch."""
        ...


Loader = Callable[[int | None], BatchAnswerer[Given, Answered]]
"""Loads the model. The argument is the number of the worker, from 0; None without worker processes."""

BATCHES_PER_WORKER = 2
"""Batches that wait for each worker, so that none is idle; more would only be computed again after an interruption."""


class Workers(Protocol[Given, Answered]):
    """What answers the batches."""

    def description(self) -> Any:
        """Return the description of the model."""

    def results(self, batches: Iterable[Given]) -> Iterator[Answered]:
        """Yield the results of the batches, in order."""

    def close(self) -> None:
        """End the processes."""


class InProcess(Generic[Given, Answered]):
    """Answers in this process."""

    def __init__(self, load: Loader[Given, Answered]) -> None:
        self._answer = load(None)

    def description(self) -> Any:
        return self._answer.description()

    def results(self, batches: Iterable[Given]) -> Iterator[Answered]:
        return map(self._answer, batches)

    def close(self) -> None:
        """Has nothing to end."""


class Processes(Generic[Given, Answered]):
    """Answers in ``num_workers`` processes. ``load`` must be picklable.

    Raises WorkerError if a process ends unexpectedly.
    """

    def __init__(self, load: Loader[Given, Answered], num_workers: int) -> None:
        context = get_context("spawn")
        self._num_workers = num_workers
        self._pool = ProcessPoolExecutor(
            num_workers, context, initializer=_start, initargs=(load, context.Value("i", 0), num_workers)
        )

    def description(self) -> Any:
        return _result_of(self._pool.submit(_description))

    def results(self, batches: Iterable[Given]) -> Iterator[Answered]:
        waiting: deque[Future[Any]] = deque()
        for batch in batches:
            waiting.append(self._submit(batch))
            if len(waiting) >= BATCHES_PER_WORKER * self._num_workers:
                yield _result_of(waiting.popleft())
        while waiting:
            yield _result_of(waiting.popleft())

    def _submit(self, batch: Any) -> Future[Any]:
        try:
            return self._pool.submit(_answer, batch)
        except BrokenProcessPool as error:
            raise _ended() from error

    def close(self) -> None:
        self._pool.shutdown(cancel_futures=True)


def make_workers(load: Loader[Given, Answered], num_workers: int) -> Workers[Given, Answered]:
    """Return what answers the batches. Raises ValueError for fewer than one worker."""
    if num_workers < 1:
        raise ValueError(f"workers is {num_workers}. Give 1 or more.")
    return InProcess(load) if num_workers == 1 else Processes(load, num_workers)


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


_answerer: BatchAnswerer[Any, Any] | None = None


def _start(load: Loader[Any, Any], counter: Any, num_workers: int) -> None:
    """Prepare a worker process: load the model, and end with the parent process."""
    global _answerer
    threading.Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(max(1, torch.get_num_threads() // num_workers))
    with counter.get_lock():
        number = counter.value
        counter.value += 1
    _answerer = load(number)


def _end_with_parent() -> None:
    parent = parent_process()
    assert parent is not None, "runs in a child process"
    parent.join()
    os._exit(1)


def _description() -> Any:
    assert _answerer is not None, "set when the process starts"
    return _answerer.description()


def _answer(batch: Any) -> Any:
    assert _answerer is not None, "set when the process starts"
    return _answerer(batch)
