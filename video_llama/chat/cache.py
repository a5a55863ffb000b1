"""The decoder's keys and values for what it has read of one conversation, kept from one question to the next."""

from __future__ import annotations

from collections.abc import Sequence

from transformers import DynamicCache


class PromptCache:
    """Keys and values in step with the ids that they stand for.

    Ids are enough to compare by, placeholder ids included: a conversation's media are only ever added, and keep
    their order (``fit_history``), so the n-th run of a kind is always the same medium.
    """

    def __init__(self) -> None:
        self.ids: list[int] = []
        self.key_values = DynamicCache()

    def keep_common(self, ids: Sequence[int]) -> int:
        """Forget what is not a beginning of ``ids``; returns how many of them it holds, always fewer than all."""
        limit = min(len(self.ids), len(ids) - 1)
        common = next((n for n in range(limit) if self.ids[n] != ids[n]), limit)
        surplus = len(self.ids) - common
        if surplus:
            self.key_values.crop(-surplus)
            self.ids = self.ids[:common]
        return common
