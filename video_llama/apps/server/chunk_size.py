"""The number of prompt tokens that are processed at once while other answers run."""

from __future__ import annotations

import math

MIN_TOKENS = 4
"""Smaller chunks would read the weights too often. Also the first chunk, before the speed is known."""


class ChunkSize:
    """Chooses the chunks of prompts: ``max_tokens``, or as many as can be processed in ``seconds`` if it is set."""

    def __init__(self, max_tokens: int) -> None:
        self._max_tokens = max_tokens
        self._seconds_per_token: float | None = None
        self.seconds: float | None = None

    def tokens(self) -> int:
        """Return the size of the next chunk."""
        if self.seconds is None or self.seconds == math.inf:
            return self._max_tokens
        if self._seconds_per_token is None:
            return min(self._max_tokens, MIN_TOKENS)
        return max(1, min(self._max_tokens, max(MIN_TOKENS, int(self.seconds / self._seconds_per_token))))

    def measured(self, num_tokens: int, seconds: float) -> None:
        """Record the time of a chunk. A slower one counts at once, a faster one by half."""
        new, old = seconds / num_tokens, self._seconds_per_token
        self._seconds_per_token = new if old is None else max(new, (old + new) / 2)
