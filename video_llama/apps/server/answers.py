"""One answer on its way: what is asked of the model thread, what it reports back, and the state between two tokens."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from video_llama.apps.server.stops import StopFilter, cut
from video_llama.chat.engine import MAX_NEW_TOKENS, STOP_STRING, Effort, Engine, PreparedTurn
from video_llama.chat.record import Record


@dataclass(frozen=True)
class Finished:
    """The whole answer. ``num_prompt``, ``num_reused`` and ``num_generated`` count tokens."""

    text: str
    reason: Literal["stop", "length"]
    record: Record


Event = str | Finished | Exception
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

    def _finished(self) -> Finished:
        record = self._engine.record(self.order.turn, self._writer, self.effort, self.order.turn.media)
        reason: Literal["stop", "length"] = "length" if self._writer.stop_reason == MAX_NEW_TOKENS else "stop"
        return Finished(cut(self._writer.text, self.order.stops), reason, record)
