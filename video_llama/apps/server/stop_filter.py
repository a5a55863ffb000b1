"""Stop strings of a request: cut the answer before them, and hold back text that may be the start of one."""

from __future__ import annotations

from collections.abc import Sequence

from video_llama.conversation import overlap


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
