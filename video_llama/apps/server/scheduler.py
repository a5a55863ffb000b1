"""The one thread that runs the model: between two tokens it takes in what waits, lets go what ended, and encodes media.

Everything else of the server runs in the event loop and speaks to this thread through ``submit`` and ``call``. A search
with beams is in no batch: it takes turns with it, a token of the search and one of every other answer.
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
from video_llama.chat.decoding import beam_ids
from video_llama.chat.engine import MAX_NEW_TOKENS, STOP_STRING, Effort, Engine, PreparedTurn
from video_llama.chat.record import Record
from video_llama.conversation import has_stop

Result = TypeVar("Result")


@dataclass(frozen=True)
class FinishedAnswer:
    """The whole answer. ``num_prompt``, ``num_reused`` and ``num_generated`` count tokens."""

    text: str
    reason: Literal["stop", "length"]
    record: Record


Event = str | FinishedAnswer | Exception
"""The next piece of text; the end; or what went wrong, which is an end, too."""


@dataclass
class DecodeJob:
    """An answer that is wanted. ``emit`` is called in the model thread, with pieces of text and then one end.

    ``media_keys`` name the content of ``turn.media``. Once ``cancelled`` is set nothing more is emitted.
    """

    turn: PreparedTurn
    media_keys: tuple[str, ...]
    stops: tuple[str, ...]
    emit: Callable[[Event], None]
    cancelled: threading.Event = field(default_factory=threading.Event)
    ordered_at: float = field(default_factory=time.perf_counter)


class BatchRow:
    """An order that is being answered."""

    def __init__(self, engine: Engine, order: DecodeJob) -> None:
        self.order, self._engine = order, engine
        self.effort = Effort()
        self._writer = engine.writer(order.turn)
        self._filter = StopFilter(order.stops)

    @property
    def num_generated(self) -> int:
        """Tokens so far."""
        return self._writer.num_tokens

    def take(self, token: int) -> bool:
        """Take the next id, emit what it makes certain, and say whether the answer has ended."""
        writer = self._writer
        piece = writer.push(token)
        certain = self._filter.push(piece, is_last=writer.stop_reason is not None)
        if self._filter.is_stopped:
            writer.stop_reason = STOP_STRING
        if certain:
            self.order.emit(certain)
        if writer.stop_reason is not None:
            self.order.emit(self._finished())
        return writer.stop_reason is not None

    def _finished(self) -> FinishedAnswer:
        record = self._engine.record(self.order.turn, self._writer, self.effort, self.order.turn.media)
        reason: Literal["stop", "length"] = "length" if self._writer.stop_reason == MAX_NEW_TOKENS else "stop"
        return FinishedAnswer(cut_at_stop(self._writer.text, self.order.stops), reason, record)


class SchedulerStoppedError(RuntimeError):
    """The thread has ended: what was asked of it will not be done."""


class JobCancelledError(Exception):
    """Nobody waits for the answer any more."""


class Scheduler:
    """Decodes up to ``max_rows`` answers at once, in one batch that answers join and leave between two tokens; of the
    searches with beams one at a time."""

    def __init__(self, engine: Engine, metrics: Metrics, *, max_rows: int, prefix_tokens: int) -> None:
        self._engine, self._metrics, self._max_rows = engine, metrics, max_rows
        self._batch = DecodeBatch(engine, PrefixCache(prefix_tokens))
        self._rows: list[BatchRow] = []
        self._orders: deque[DecodeJob] = deque()
        self._calls: deque[tuple[Callable[[], Any], Future[Any]]] = deque()
        self._changed = threading.Condition()
        self._is_stopping, self._is_searching = False, False
        self._thread = threading.Thread(target=self._run, name="video-llama-model", daemon=True)

    @property
    def num_running(self) -> int:
        """Answers that are being decoded."""
        return len(self._rows) + self._is_searching

    def start(self) -> None:
        """Begin; once."""
        self._thread.start()

    def stop(self) -> None:
        """End after the token in hand; what is not done then fails with SchedulerStoppedError."""
        with self._changed:
            self._is_stopping = True
            self._changed.notify()
        if self._thread.is_alive():
            self._thread.join()

    def submit(self, order: DecodeJob) -> None:
        """Queue an answer. Raises SchedulerStoppedError after ``stop``."""
        with self._changed:
            self._refuse_if_stopping()
            self._orders.append(order)
            self._changed.notify()

    def call(self, function: Callable[[], Result]) -> Future[Result]:
        """Run a function in this thread, between two tokens. Raises SchedulerStoppedError after ``stop``."""
        future: Future[Result] = Future()
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
        self._give_up()

    def _advance(self) -> None:
        """A token for every answer in the batch, and what stands between two of them."""
        self._drop_cancelled()
        self._make_one_call()
        self._admit_one()
        if self._rows:
            self._step()

    def _wait_for_work(self) -> bool:
        """Sleep while there is nothing to do; False when it is time to stop."""
        with self._changed:
            self._changed.wait_for(lambda: self._is_stopping or self._rows or self._orders or self._calls)
            return not self._is_stopping

    def _make_one_call(self) -> None:
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
        """Let one waiting order join: one at a time, so that those who listen wait for one prompt at most."""
        self._metrics.waiting.set(len(self._orders))
        order = self._next_order()
        if order is None or order.cancelled.is_set():
            return
        if order.turn.decoding.num_beams > 1:
            self._search(order)
            return
        row = BatchRow(self._engine, order)
        start = time.perf_counter()
        try:
            token, row.effort.reused = self._batch.join(row.order.turn, row.order.media_keys)
        except Exception as error:
            row.order.emit(error)
            return
        row.effort.prefill = time.perf_counter() - start
        self._rows.append(row)
        self._count_prompt(row)
        self._deliver({len(self._rows) - 1: token})

    def _next_order(self) -> DecodeJob | None:
        """Take the order that has waited longest out of the queue, of those that there is room for now."""
        if self.num_running >= self._max_rows:
            return None
        with self._changed:
            for place, order in enumerate(self._orders):
                if not (self._is_searching and order.turn.decoding.num_beams > 1):
                    del self._orders[place]
                    return order
        return None

    def _search(self, order: DecodeJob) -> None:
        """Find an answer with beams; all its text is emitted at the end."""
        row, start = BatchRow(self._engine, order), time.perf_counter()

        def take_turns() -> None:
            if order.cancelled.is_set():
                raise JobCancelledError
            self._refuse_if_stopping()
            self._advance()

        self._is_searching = True
        self._metrics.running.set(self.num_running)
        try:
            tokens = beam_search(self._engine, order.turn, take_turns)
            row.effort.generate = time.perf_counter() - start
            self._count_prompt(row)
            for number, token in enumerate(tokens, start=1):
                if self._has_ended(row, token):
                    self._metrics.tokens.labels("generated").inc(number)
                    return
            raise AssertionError("a search ends as an answer does")
        except JobCancelledError:
            return
        except Exception as error:
            order.emit(error)
        finally:
            self._is_searching = False
            self._metrics.running.set(self.num_running)

    def _count_prompt(self, row: BatchRow) -> None:
        self._metrics.first_token_seconds.observe(time.perf_counter() - row.order.ordered_at)
        self._metrics.tokens.labels("prompt").inc(len(row.order.turn.prompt.input_ids))
        self._metrics.tokens.labels("reused").inc(row.effort.reused)

    def _step(self) -> None:
        start = time.perf_counter()
        try:
            tokens = self._batch.step()
        except Exception as error:
            for row in self._rows:
                row.order.emit(error)
            self._rows = []
            self._batch.clear()
            self._metrics.running.set(self.num_running)
            return
        seconds = time.perf_counter() - start
        for row in self._rows:
            row.effort.generate += seconds
        self._deliver(dict(enumerate(tokens)))

    def _deliver(self, tokens: dict[int, int]) -> None:
        """Hand rows, by their place, their tokens and let the finished ones leave."""
        self._metrics.tokens.labels("generated").inc(len(tokens))
        self._leave([place for place, token in tokens.items() if self._has_ended(self._rows[place], token)])

    def _has_ended(self, row: BatchRow, token: int) -> bool:
        try:
            return row.take(token)
        except Exception as error:
            row.order.emit(error)
            return True

    def _drop_cancelled(self) -> None:
        self._leave([place for place, row in enumerate(self._rows) if row.order.cancelled.is_set()])

    def _leave(self, places: list[int]) -> None:
        self._batch.leave(places)
        self._rows = [row for place, row in enumerate(self._rows) if place not in places]
        self._metrics.running.set(self.num_running)

    def _give_up(self) -> None:
        error = SchedulerStoppedError("The server is shutting down.")
        for order in [*(row.order for row in self._rows), *self._orders]:
            order.emit(error)
        for _, future in self._calls:
            if future.set_running_or_notify_cancel():
                future.set_exception(error)
        self._rows, self._batch = [], DecodeBatch(self._engine, PrefixCache(0))


def beam_search(engine: Engine, turn: PreparedTurn, between: Callable[[], None]) -> list[int]:
    """The ids that ``Chat`` finds for this turn. ``between`` is called after each token, and ends it by raising."""
    length = 0

    def is_stopped(ids: Sequence[int]) -> bool:  # asked for every beam, all of one length
        nonlocal length
        if len(ids) > length:
            length = len(ids)
            between()
        return has_stop(engine.tokenizer, ids, engine.template)

    embeds_1LD, mask_1L = engine.embed([turn])
    tokenizer = engine.tokenizer
    ids = {"eos_id": tokenizer.eos_id, "pad_id": tokenizer.pad_id}
    [found] = beam_ids(engine.model, embeds_1LD, mask_1L, turn.decoding, **ids, is_stopped=is_stopped)
    return found


def cut_at_stop(text: str, stops: Sequence[str]) -> str:
    """``text`` up to the stop string that ends first in it, or begins first of those that end together."""
    found = [(place + len(stop), place) for stop in stops if (place := text.find(stop)) >= 0]
    return text[: min(found)[1]] if found else text


class StopFilter:
    """Takes an answer's pieces and gives back what is certain to stand before a stop string."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stops)
        self._held = ""
        self.is_stopped = False

    def push(self, piece: str, *, is_last: bool = False) -> str:
        """Take the next piece; with ``is_last`` nothing is held back any more."""
        text = self._held + piece
        before = cut_at_stop(text, self._stops)
        if len(before) < len(text):
            self.is_stopped, self._held = True, ""
            return before
        num_held = 0 if is_last else max((_overlap(text, stop) for stop in self._stops), default=0)
        self._held = text[len(text) - num_held :]
        return text[: len(text) - num_held]


def _overlap(text: str, stop: str) -> int:
    """Length of the longest proper beginning of ``stop`` that ends ``text``."""
    return next((n for n in range(min(len(stop) - 1, len(text)), 0, -1) if text.endswith(stop[:n])), 0)
