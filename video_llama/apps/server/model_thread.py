"""The one thread that runs the model: between two tokens it takes in what waits, lets go what ended, and encodes media.

Everything else of the server runs in the event loop and speaks to this thread through ``submit`` and ``call``. A search
with beams is in no batch: it takes turns with it, a token of the search and one of every other answer.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

from video_llama.apps.server.answers import BatchRow, DecodeJob
from video_llama.apps.server.batch import DecodeBatch
from video_llama.apps.server.beams import search
from video_llama.apps.server.metrics import Metrics
from video_llama.apps.server.prefixes import PrefixStore
from video_llama.chat.engine import Engine

Result = TypeVar("Result")


class StoppedError(RuntimeError):
    """The thread has ended: what was asked of it will not be done."""


class CancelledError(Exception):
    """Nobody waits for the answer any more."""


class ModelThread:
    """Decodes up to ``max_rows`` answers at once, in one batch that answers join and leave between two tokens; of the
    searches with beams one at a time."""

    def __init__(self, engine: Engine, metrics: Metrics, *, max_rows: int, prefix_tokens: int) -> None:
        self._engine, self._metrics, self._max_rows = engine, metrics, max_rows
        self._batch = DecodeBatch(engine, PrefixStore(prefix_tokens))
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
        """End after the token in hand; what is not done then fails with StoppedError."""
        with self._changed:
            self._is_stopping = True
            self._changed.notify()
        if self._thread.is_alive():
            self._thread.join()

    def submit(self, order: DecodeJob) -> None:
        """Queue an answer. Raises StoppedError after ``stop``."""
        with self._changed:
            self._refuse_if_stopping()
            self._orders.append(order)
            self._changed.notify()

    def call(self, function: Callable[[], Result]) -> Future[Result]:
        """Run a function in this thread, between two tokens. Raises StoppedError after ``stop``."""
        future: Future[Result] = Future()
        with self._changed:
            self._refuse_if_stopping()
            self._calls.append((function, future))
            self._changed.notify()
        return future

    def _refuse_if_stopping(self) -> None:
        if self._is_stopping:
            raise StoppedError("The server is shutting down.")

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
                raise CancelledError
            self._refuse_if_stopping()
            self._advance()

        self._is_searching = True
        self._metrics.running.set(self.num_running)
        try:
            tokens = search(self._engine, order.turn, take_turns)
            row.effort.generate = time.perf_counter() - start
            self._count_prompt(row)
            for number, token in enumerate(tokens, start=1):
                if self._has_ended(row, token):
                    self._metrics.tokens.labels("generated").inc(number)
                    return
            raise AssertionError("a search ends as an answer does")
        except CancelledError:
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
        error = StoppedError("The server is shutting down.")
        for order in [*(row.order for row in self._rows), *self._orders]:
            order.emit(error)
        for _, future in self._calls:
            if future.set_running_or_notify_cancel():
                future.set_exception(error)
        self._rows, self._batch = [], DecodeBatch(self._engine, PrefixStore(0))
