"""The thread that runs the model: it decodes all running answers in one batch.

Between two tokens it encodes media and processes prompts, in steps, for ``max_pause`` times the duration of a decoding
step, or for ``min_pause`` seconds if that is longer. One medium and one prompt are in progress at a time; they
alternate. The rest of the server runs in the event loop and uses ``Scheduler.submit`` and ``Scheduler.call_steps``. A
beam search is not part of the batch: it alternates with the batch, one step of the search and one token for every other
answer.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Literal, TypeVar

from video_llama.apps.server.batch import DecodeBatch, PrefixCache
from video_llama.apps.server.cache_limit import CacheLimit, tokens_alone
from video_llama.apps.server.chunk_size import ChunkSize
from video_llama.apps.server.metrics import Metrics
from video_llama.apps.server.stop_filter import StopFilter, cut_at_stop
from video_llama.apps.server.work import QueuedCall, Work, clock_of, synchronize
from video_llama.chat.engine import MAX_NEW_TOKENS, STOP_STRING, Effort, Engine, PreparedTurn
from video_llama.chat.record import Record
from video_llama.chat.session import search_beams
from video_llama.models.encoding_steps import Steps, timed

CallResult = TypeVar("CallResult")

STEP_WEIGHT = 0.2
"""Weight of the last decoding step in the usual duration of one."""


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

    def __init__(
        self,
        engine: Engine,
        metrics: Metrics,
        *,
        max_rows: int,
        prefix_tokens: int,
        prefill_chunk_tokens: int = 512,
        max_pause: float = 1.0,
        min_pause: float = 0.0,
        cache_limit: CacheLimit | None = None,
    ) -> None:
        self._engine, self._metrics, self._max_rows = engine, metrics, max_rows
        self._cache_limit = cache_limit or CacheLimit.of(engine, None)
        self._prefixes = PrefixCache(prefix_tokens)
        self._batch = DecodeBatch(engine, self._prefixes, max_rows)
        self._search_tokens = 0
        """Number of tokens whose keys and values the running beam search needs."""
        self._rows: list[BatchRow] = []
        self._jobs: deque[DecodeJob] = deque()
        self._calls: deque[QueuedCall] = deque()
        self._call: Work | None = None
        self._joining: Work | None = None
        self._was_prefill = False
        self._chunk_size = ChunkSize(prefill_chunk_tokens)
        self._max_pause, self._min_pause = max_pause, min_pause
        self._clock = clock_of(engine.model.device)
        self._step_seconds = 0.0
        """Usual duration of a decoding step."""
        self._changed = threading.Condition()
        self._is_stopping, self._is_searching = False, False
        self._thread = threading.Thread(target=self._run, name="video-llama-model", daemon=True)

    @property
    def num_running(self) -> int:
        """Number of answers being generated, including one whose prompt is being processed."""
        return len(self._rows) + self._is_searching + (self._joining is not None)

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

    def call_steps(self, create: Callable[[], Steps[CallResult]]) -> Future[CallResult]:
        """Do the steps that ``create`` returns in the thread, with tokens between them.

        Calls are done one after the other. Cancelling the future ends the call. Raises SchedulerStoppedError after
        ``stop``.
        """
        call = QueuedCall(create)
        with self._changed:
            self._refuse_if_stopping()
            self._calls.append(call)
            self._changed.notify()
        return call.future

    def _refuse_if_stopping(self) -> None:
        if self._is_stopping:
            raise SchedulerStoppedError("The server is shutting down.")

    def _run(self) -> None:
        while self._wait_for_work():
            self._advance()
        self._fail_remaining()

    def _advance(self) -> None:
        """Run one iteration: remove cancelled rows, admit a job, do some steps of work, decode one token per row."""
        self._drop_cancelled()
        self._admit_one()
        self._work()
        if self._rows:
            self._step()

    def _wait_for_work(self) -> bool:
        """Block until there is work. Return False when the scheduler is stopping."""
        with self._changed:
            self._changed.wait_for(self._has_work)
            return not self._is_stopping

    def _has_work(self) -> bool:
        return bool(self._is_stopping or self._rows or self._jobs or self._calls or self._call or self._joining)

    def _work(self) -> None:
        """Do one step of work; while answers run, as many as fit into the pause between two tokens."""
        pause = max(self._min_pause, self._max_pause * self._step_seconds) if self._step_seconds else 0.0
        start = self._clock()
        left = pause
        while (work := self._next_work()) is not None:
            self._chunk_size.seconds = left if self._rows else None
            began, is_done = self._clock(), work.step()
            synchronize(self._engine.model.device)
            work.last_seconds = self._clock() - began
            if is_done:
                if work is self._joining:
                    self._joining = None
                    self._metrics.running.set(self.num_running)
                else:
                    self._call = None
            left = pause - (self._clock() - start)
            if not self._rows or left < work.last_seconds:
                return

    def _next_work(self) -> Work | None:
        """Return the call or the prompt in progress, in turns."""
        if self._call is None and self._calls:
            self._call = self._calls.popleft().work()
        if self._call is None or (self._joining is not None and not self._was_prefill):
            self._was_prefill = True
            return self._joining
        self._was_prefill = False
        return self._call

    def _admit_one(self) -> None:
        """Start one waiting job, unless the prompt of another one is being processed."""
        self._metrics.waiting.set(len(self._jobs))
        job = self._next_job()
        if job is None or job.cancelled.is_set():
            return
        if job.turn.decoding.num_beams > 1:
            self._search(job)
            return
        row = BatchRow(self._engine, job)
        steps = timed(self._batch.join_steps(job.turn, job.media_keys, self._chunk_size))

        def joined(result: tuple[tuple[int, int], float]) -> None:
            (token, row.effort.reused), row.effort.prefill = result
            self._rows.append(row)
            self._report_memory()
            self._count_prompt(row)
            self._push_tokens({len(self._rows) - 1: token})

        self._joining = Work(steps, joined, job.emit, job.cancelled.is_set)
        self._metrics.running.set(self.num_running)

    def _next_job(self) -> DecodeJob | None:
        """Remove and return the oldest queued job that can start now."""
        if self._joining is not None or self.num_running >= self._max_rows:
            return None
        with self._changed:
            for index, job in enumerate(self._jobs):
                if job.cancelled.is_set() or not (self._is_searching and job.turn.decoding.num_beams > 1):
                    # Later jobs do not overtake one that waits for memory: it would starve.
                    if not self._fits(job):
                        return None
                    del self._jobs[index]
                    return job
        return None

    def _fits(self, job: DecodeJob) -> bool:
        """Return whether the keys and values of an answer fit, and remove kept prompts to make room for them."""
        if job.cancelled.is_set():
            return True
        limit = self._cache_limit.tokens
        if job.turn.decoding.num_beams > 1:
            left = limit - self._batch.num_tokens - tokens_alone(job.turn)
        else:
            limit -= self._search_tokens
            left = limit - self._batch.reserve(job.turn, limit)
        if left < 0 and self.num_running:
            return False
        self._prefixes.limit(max(0, left))
        return True

    def _search(self, job: DecodeJob) -> None:
        """Generate an answer with beam search. Its text is emitted when the search is complete."""
        row, start = BatchRow(self._engine, job), time.perf_counter()

        def after_step() -> None:
            if job.cancelled.is_set():
                raise JobCancelledError
            self._refuse_if_stopping()
            self._advance()

        self._is_searching, self._search_tokens = True, tokens_alone(job.turn)
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
            self._is_searching, self._search_tokens = False, 0
            self._metrics.running.set(self.num_running)

    def _count_prompt(self, row: BatchRow) -> None:
        self._metrics.first_token_seconds.observe(time.perf_counter() - row.job.submitted_at)
        self._metrics.tokens.labels("prompt").inc(len(row.job.turn.prompt.input_ids))
        self._metrics.tokens.labels("reused").inc(row.effort.reused)

    def _step(self) -> None:
        start, began = time.perf_counter(), self._clock()
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
        busy = self._clock() - began
        self._step_seconds += (busy - self._step_seconds) * (STEP_WEIGHT if self._step_seconds else 1)
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

    def _report_memory(self) -> None:
        size = self._cache_limit.bytes_per_token
        self._metrics.cache_bytes.labels("answers").set(size * (self._batch.num_tokens + self._search_tokens))
        self._metrics.cache_bytes.labels("prompts").set(size * self._prefixes.num_tokens)

    def _drop_cancelled(self) -> None:
        self._remove([index for index, row in enumerate(self._rows) if row.job.cancelled.is_set()])

    def _remove(self, indices: list[int]) -> None:
        if indices:
            self._rows = [self._rows[index] for index in self._batch.leave(indices)]
            self._report_memory()
        self._metrics.running.set(self.num_running)

    def _fail_remaining(self) -> None:
        error = SchedulerStoppedError("The server is shutting down.")
        if self._joining is not None:
            self._joining.fail(error)
        if self._call is not None:
            self._call.fail(error)
        for job in [*(row.job for row in self._rows), *self._jobs]:
            job.emit(error)
        for call in self._calls:
            call.fail(error)
        self._rows, self._joining, self._call = [], None, None
        self._batch.clear()
        self._prefixes.limit(0)
