"""The thread that runs the model: it decodes all running answers in one batch and encodes media between two steps.

The rest of the server runs in the event loop and uses ``Scheduler.submit`` and ``Scheduler.call``. A beam search is not
part of the batch: it alternates with the batch, one step of the search and one token for every other answer.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

from video_llama.apps.server.batch import DecodeBatch, PrefixCache
from video_llama.apps.server.metrics import Metrics
from video_llama.chat.engine import MAX_NEW_TOKENS, STOP_STRING, Effort, Engine, PreparedTurn
from video_llama.chat.record import Record
from video_llama.chat.session import search_beams
from video_llama.conversation import overlap

CallResult = TypeVar("CallResult")


@dataclass(frozen=True)
class FinishedAnswer:
    """A complete answer: its text, why it ended, and its record."""

    text: str
    reason: Literal["stop", "length"]
    record: Record


AnswerEvent = str | FinishedAnswer | Exception
"""A piece of text, or one of the two final events: the complete answer or an error."""


@dataclass
class DecodeJob:
    """A request for one answer.

    The scheduler calls ``emit`` in its thread, with pieces of text and then one final event. ``media_keys`` identify
    the content of ``turn.media``. Nothing is emitted after ``cancelled`` is set.
    """

    turn: PreparedTurn
    media_keys: tuple[str, ...]
    stops: tuple[str, ...]
    emit: Callable[[AnswerEvent], None]
    cancelled: threading.Event = field(default_factory=threading.Event)
    submitted_at: float = field(default_factory=time.perf_counter)


class BatchRow:
    """The state of an answer between two tokens."""

    def __init__(self, engine: Engine, job: DecodeJob) -> None:
        self.job, self._engine = job, engine
        self.effort = Effort()
        self._writer = engine.writer(job.turn)
        self._filter = StopFilter(job.stops)

    def push(self, token: int) -> bool:
        """Add the next token, emit the text that is now final, and return whether the answer is complete."""
        writer = self._writer
        piece = writer.push(token)
        text = self._filter.push(piece, is_last=writer.stop_reason is not None)
        if self._filter.is_stopped:
            writer.stop_reason = STOP_STRING
        if text:
            self.job.emit(text)
        if writer.stop_reason is not None:
            self.job.emit(self._finished())
        return writer.stop_reason is not None

    def _finished(self) -> FinishedAnswer:
        record = self._engine.record(self.job.turn, self._writer, self.effort, self.job.turn.media)
        reason: Literal["stop", "length"] = "length" if self._writer.stop_reason == MAX_NEW_TOKENS else "stop"
        return FinishedAnswer(cut_at_stop(self._writer.text, self.job.stops), reason, record)


class SchedulerStoppedError(RuntimeError):
    """The scheduler has stopped and does not run the job or call."""


class JobCancelledError(Exception):
    """The job was cancelled during its beam search."""


class Scheduler:
    """Decodes up to ``max_rows`` answers at once in one thread. At most one of them uses beam search."""

    def __init__(self, engine: Engine, metrics: Metrics, *, max_rows: int, prefix_tokens: int) -> None:
        self._engine, self._metrics, self._max_rows = engine, metrics, max_rows
        self._batch = DecodeBatch(engine, PrefixCache(prefix_tokens))
        self._rows: list[BatchRow] = []
        self._jobs: deque[DecodeJob] = deque()
        self._calls: deque[tuple[Callable[[], Any], Future[Any]]] = deque()
        self._changed = threading.Condition()
        self._is_stopping, self._is_searching = False, False
        self._thread = threading.Thread(target=self._run, name="video-llama-model", daemon=True)

    @property
    def num_running(self) -> int:
        """Number of answers being generated."""
        return len(self._rows) + self._is_searching

    def start(self) -> None:
        """Start the thread. Call this once."""
        self._thread.start()

    def stop(self) -> None:
        """Stop after the current token. Unfinished jobs and calls fail with SchedulerStoppedError."""
        with self._changed:
            self._is_stopping = True
            self._changed.notify()
        if self._thread.is_alive():
            self._thread.join()

    def submit(self, job: DecodeJob) -> None:
        """Queue a job. Raises SchedulerStoppedError after ``stop``."""
        with self._changed:
            self._refuse_if_stopping()
            self._jobs.append(job)
            self._changed.notify()

    def call(self, function: Callable[[], CallResult]) -> Future[CallResult]:
        """Run a function in the thread, between two tokens. Raises SchedulerStoppedError after ``stop``."""
        future: Future[CallResult] = Future()
        with self._changed:
            self._refuse_if_stopping()
            self._calls.append((function, future))
            self._changed.notify()
        return future

    def _refuse_if_stopping(self) -> None:
        if self._is_stopping:
            raise SchedulerStoppedError("The server is shutting down.")

    def _run(self) -> None:
        while self._wait_for_work():
            self._advance()
        self._fail_remaining()

    def _advance(self) -> None:
        """Run one iteration: remove cancelled rows, run one call, admit one job, decode one token per row."""
        self._drop_cancelled()
        self._run_one_call()
        self._admit_one()
        if self._rows:
            self._step()

    def _wait_for_work(self) -> bool:
        """Block until there is work. Return False when the scheduler is stopping."""
        with self._changed:
            self._changed.wait_for(lambda: self._is_stopping or self._rows or self._jobs or self._calls)
            return not self._is_stopping

    def _run_one_call(self) -> None:
        if not self._calls:
            return
        function, future = self._calls.popleft()
        if not future.set_running_or_notify_cancel():
            return
        try:
            future.set_result(function())
        except Exception as error:
            future.set_exception(error)

    def _admit_one(self) -> None:
        """Start one waiting job. One per iteration, so that running answers wait for one prompt at most."""
        self._metrics.waiting.set(len(self._jobs))
        job = self._next_job()
        if job is None or job.cancelled.is_set():
            return
        if job.turn.decoding.num_beams > 1:
            self._search(job)
            return
        row = BatchRow(self._engine, job)
        start = time.perf_counter()
        try:
            token, row.effort.reused = self._batch.join(job.turn, job.media_keys)
        except Exception as error:
            job.emit(error)
            return
        row.effort.prefill = time.perf_counter() - start
        self._rows.append(row)
        self._count_prompt(row)
        self._push_tokens({len(self._rows) - 1: token})

    def _next_job(self) -> DecodeJob | None:
        """Remove and return the oldest queued job that can start now."""
        if self.num_running >= self._max_rows:
            return None
        with self._changed:
            for index, job in enumerate(self._jobs):
                if not (self._is_searching and job.turn.decoding.num_beams > 1):
                    del self._jobs[index]
                    return job
        return None

    def _search(self, job: DecodeJob) -> None:
        """Generate an answer with beam search. Its text is emitted when the search is complete."""
        row, start = BatchRow(self._engine, job), time.perf_counter()

        def after_step() -> None:
            if job.cancelled.is_set():
                raise JobCancelledError
            self._refuse_if_stopping()
            self._advance()

        self._is_searching = True
        self._metrics.running.set(self.num_running)
        try:
            [tokens] = search_beams(self._engine, [job.turn], after_step)
            row.effort.generate = time.perf_counter() - start
            self._count_prompt(row)
            for count, token in enumerate(tokens, start=1):
                if self._is_complete(row, token):
                    self._metrics.tokens.labels("generated").inc(count)
                    return
            raise AssertionError("beam search must return a complete answer")
        except JobCancelledError:
            return
        except Exception as error:
            job.emit(error)
        finally:
            self._is_searching = False
            self._metrics.running.set(self.num_running)

    def _count_prompt(self, row: BatchRow) -> None:
        self._metrics.first_token_seconds.observe(time.perf_counter() - row.job.submitted_at)
        self._metrics.tokens.labels("prompt").inc(len(row.job.turn.prompt.input_ids))
        self._metrics.tokens.labels("reused").inc(row.effort.reused)

    def _step(self) -> None:
        start = time.perf_counter()
        try:
            tokens = self._batch.step()
        except Exception as error:
            for row in self._rows:
                row.job.emit(error)
            self._rows = []
            self._batch.clear()
            self._metrics.running.set(self.num_running)
            return
        seconds = time.perf_counter() - start
        for row in self._rows:
            row.effort.generate += seconds
        self._push_tokens(dict(enumerate(tokens)))

    def _push_tokens(self, tokens: dict[int, int]) -> None:
        """Add a token to each row, given by row index, and remove the rows that are complete."""
        self._metrics.tokens.labels("generated").inc(len(tokens))
        self._remove([index for index, token in tokens.items() if self._is_complete(self._rows[index], token)])

    def _is_complete(self, row: BatchRow, token: int) -> bool:
        """Add a token to a row and return whether the row is complete or has failed."""
        try:
            return row.push(token)
        except Exception as error:
            row.job.emit(error)
            return True

    def _drop_cancelled(self) -> None:
        self._remove([index for index, row in enumerate(self._rows) if row.job.cancelled.is_set()])

    def _remove(self, indices: list[int]) -> None:
        self._batch.leave(indices)
        self._rows = [row for index, row in enumerate(self._rows) if index not in indices]
        self._metrics.running.set(self.num_running)

    def _fail_remaining(self) -> None:
        error = SchedulerStoppedError("The server is shutting down.")
        for job in [*(row.job for row in self._rows), *self._jobs]:
            job.emit(error)
        for _, future in self._calls:
            if future.set_running_or_notify_cancel():
                future.set_exception(error)
        self._rows, self._batch = [], DecodeBatch(self._engine, PrefixCache(0))


def cut_at_stop(text: str, stops: Sequence[str]) -> str:
    """Return ``text`` up to the stop string whose last character comes first, or the longest of those.

    The whole text is returned if it contains no stop string.
    """
    found = [(start + len(stop), start) for stop in stops if (start := text.find(stop)) >= 0]
    return text[: min(found)[1]] if found else text


class StopFilter:
    """Removes stop strings from streamed text. Text is held back while it may be the start of a stop string."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stops)
        self._held = ""
        self.is_stopped = False

    def push(self, piece: str, *, is_last: bool = False) -> str:
        """Add a piece of text and return the text that can be sent. With ``is_last`` no text is held back."""
        text = self._held + piece
        before = cut_at_stop(text, self._stops)
        if len(before) < len(text):
            self.is_stopped, self._held = True, ""
            return before
        num_held = 0 if is_last else max((overlap(text, stop) for stop in self._stops), default=0)
        self._held = text[len(text) - num_held :]
        return text[: len(text) - num_held]
