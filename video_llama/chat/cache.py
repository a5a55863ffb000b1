"""The key-value cache of a conversation, reused from one question to the next."""

# B rows, L positions

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor
from transformers import DynamicCache

from video_llama.conversation import common_length

KeyValues = list[tuple[Tensor, Tensor]]
"""Keys and values of each layer, each [B, heads, L, width]."""


class PromptCache:
    """Keys and values, and the token ids that they belong to.

    Prompts are compared by ids, placeholders included. That is sufficient because media are only added to a
    conversation and keep their order (``fit_history``): the n-th run of placeholders is always the same medium.
    """

    def __init__(self, ids: Sequence[int] = (), key_values: KeyValues | None = None) -> None:
        self.ids: list[int] = list(ids)
        self.key_values = DynamicCache(key_values or None)

    def pairs(self) -> KeyValues:
        """Return the keys and values of each layer."""
        layers: list[Any] = self.key_values.layers
        return [(layer.keys, layer.values) for layer in layers]

    def keep_common(self, ids: Sequence[int]) -> int:
        """Crop the cache to its longest common prefix with ``ids`` and return its length, always less than all."""
        common = min(common_length(self.ids, ids), len(ids) - 1)
        surplus = len(self.ids) - common
        if surplus:
            self.key_values.crop(-surplus)
            self.ids = self.ids[:common]
        return common
