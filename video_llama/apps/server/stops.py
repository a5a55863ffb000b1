"""Stop strings of a request: the answer ends in front of the one that is complete first; nothing of it is ever sent."""

from __future__ import annotations

from collections.abc import Sequence


def cut(text: str, stops: Sequence[str]) -> str:
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
        before = cut(text, self._stops)
        if len(before) < len(text):
            self.is_stopped, self._held = True, ""
            return before
        num_held = 0 if is_last else max((_overlap(text, stop) for stop in self._stops), default=0)
        self._held = text[len(text) - num_held :]
        return text[: len(text) - num_held]


def _overlap(text: str, stop: str) -> int:
    """Length of the longest proper beginning of ``stop`` that ends ``text``."""
    return next((n for n in range(min(len(stop) - 1, len(text)), 0, -1) if text.endswith(stop[:n])), 0)
