"""Continuous batching: rows join and leave a batch between two decoding steps, with a cache of prompt prefixes.

Rows are padded on the left to the longest row and each prompt is processed alone, so rows do not influence each other.
In float32 a greedy row generates the same tokens as it does alone.
"""

# B rows, L positions, D decoder width, V vocabulary

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from video_llama.chat.cache import KeyValues
from video_llama.chat.decoding import TokenChooser, next_tokens
from video_llama.chat.engine import Engine, PreparedTurn
from video_llama.conversation import common_length


class DecodeBatch:
    """The rows being decoded, in the order in which they joined."""

    def __init__(self, engine: Engine, prefixes: PrefixCache) -> None:
        self._engine, self._prefixes = engine, prefixes
        self.clear()

    def __len__(self) -> int:
        return len(self._choosers)

    def clear(self) -> None:
        """Remove all rows."""
        self._choosers: list[TokenChooser] = []
        self._tokens: list[Tensor] = []
        """The last token id of each row, [1], on the device."""
        self._mask_BL: Tensor | None = None
        self._cache: Any = None

    def join(self, turn: PreparedTurn, media_keys: Sequence[str]) -> tuple[int, int]:
        """Process a prompt and append its row.

        Returns the first token of the answer and the number of prompt tokens taken from the prefix cache.
        """
        engine, labels = self._engine, prompt_labels(turn, media_keys)
        num_reused, prefix = self._prefixes.longest(labels)
        cache = _cache_of(prefix)
        embeds_1LD, mask_1L = engine.embed([turn])
        choose = TokenChooser(turn.decoding, engine.tokenizer.bos_id, 1, engine.model.device)
        chosen_1, [token] = next_tokens(engine.model, embeds_1LD[:, num_reused:], mask_1L, cache, choose)
        key_values = _key_values(cache)
        self._prefixes.keep(labels, key_values)
        self._append(key_values, mask_1L)
        self._choosers.append(choose)
        self._tokens.append(chosen_1)
        return token, num_reused

    def step(self) -> list[int]:
        """Return the next token of every row. The batch must not be empty."""
        assert self._mask_BL is not None
        model, choosers = self._engine.model, self._choosers

        def choose(logits_BV: Tensor) -> Tensor:
            return torch.cat([choose(logits_BV[row : row + 1]) for row, choose in enumerate(choosers)])

        self._mask_BL = torch.cat([self._mask_BL, self._mask_BL.new_ones(len(self), 1)], dim=1)
        with torch.no_grad():
            embeds_B1D = model.get_input_embeddings()(torch.cat(self._tokens)[:, None])
        chosen_B, tokens = next_tokens(model, embeds_B1D, self._mask_BL, self._cache, choose)
        self._tokens = list(torch.split(chosen_B, 1))
        return tokens

    def leave(self, rows: Sequence[int]) -> None:
        """Remove these rows, and the padding that no remaining row needs."""
        kept = [row for row in range(len(self)) if row not in set(rows)]
        if len(kept) == len(self):
            return
        if not kept:
            self.clear()
            return
        assert self._mask_BL is not None
        mask_BL = self._mask_BL[kept]
        gap = int(mask_BL.any(dim=0).int().argmax())
        pairs = [(keys[kept][:, :, gap:], values[kept][:, :, gap:]) for keys, values in _key_values(self._cache)]
        self._mask_BL, self._cache = mask_BL[:, gap:], _cache_of(pairs)
        self._choosers = [self._choosers[row] for row in kept]
        self._tokens = [self._tokens[row] for row in kept]

    def _append(self, key_values: KeyValues, mask_1L: Tensor) -> None:
        """Append one row, padding it or the other rows on the left to equal length."""
        if self._mask_BL is None:
            self._mask_BL, self._cache = mask_1L, _cache_of(key_values)
            return
        length = max(self._mask_BL.shape[1], mask_1L.shape[1])

        def stacked(rows: Tensor, row: Tensor, dim: int) -> Tensor:
            return torch.cat([_padded(rows, length, dim), _padded(row, length, dim)])

        pairs = [
            (stacked(keys, new_keys, 2), stacked(values, new_values, 2))
            for (keys, values), (new_keys, new_values) in zip(_key_values(self._cache), key_values, strict=True)
        ]
        self._mask_BL, self._cache = stacked(self._mask_BL, mask_1L, 1), _cache_of(pairs)


def _padded(tensor: Tensor, length: int, dim: int) -> Tensor:
    """Prepend zeros along ``dim`` up to ``length``."""
    missing = length - tensor.shape[dim]
    if missing == 0:
        return tensor
    shape = list(tensor.shape)
    shape[dim] = missing
    return torch.cat([tensor.new_zeros(shape), tensor], dim=dim)


def _cache_of(key_values: KeyValues) -> Any:
    return DynamicCache(key_values or None)


def _key_values(cache: Any) -> KeyValues:
    return [(layer.keys, layer.values) for layer in cache.layers]


def prompt_labels(turn: PreparedTurn, media_keys: Sequence[str]) -> list[Hashable]:
    """Return one label per prompt token: its id, or for a media token the key of the medium and the token's index.

    ``media_keys`` identify the content of ``turn.media``, in the same order. Equal label prefixes imply equal input
    embeddings, so keys and values can be shared.
    """
    labels: list[Hashable] = list(turn.prompt.input_ids)
    keyed = list(zip(media_keys, turn.media, strict=True))
    keys = {
        "video": iter([key for key, medium in keyed if medium.video_tokens is not None]),
        "audio": iter([key for key, medium in keyed if medium.audio_tokens is not None]),
    }
    for span in turn.prompt.spans:
        key = next(keys[span.kind])
        labels[span.start : span.start + span.length] = [(span.kind, key, index) for index in range(span.length)]
    return labels


@dataclass(frozen=True)
class _CachedPrompt:
    labels: list[Hashable]
    key_values: KeyValues


class PrefixCache:
    """Keys and values of the most recently used prompts, up to ``max_tokens`` tokens in total."""

    def __init__(self, max_tokens: int) -> None:
        self._max_tokens = max_tokens
        self._entries: list[_CachedPrompt] = []

    @property
    def num_tokens(self) -> int:
        """Number of cached prompt tokens."""
        return sum(len(entry.labels) for entry in self._entries)

    def longest(self, labels: Sequence[Hashable]) -> tuple[int, KeyValues]:
        """Return the length, keys and values of the longest cached prefix of ``labels``.

        The prefix is always shorter than ``labels``, since at least one token must be processed to get logits.
        """
        if not self._entries:
            return 0, []
        lengths = [common_length(entry.labels, labels) for entry in self._entries]
        best = max(range(len(lengths)), key=lengths.__getitem__)
        length = min(lengths[best], len(labels) - 1)
        if length == 0:
            return 0, []
        entry = self._entries.pop(best)
        self._entries.append(entry)
        return length, [(keys[..., :length, :], values[..., :length, :]) for keys, values in entry.key_values]

    def keep(self, labels: list[Hashable], key_values: KeyValues) -> None:
        """Add a prompt. Removes entries that are a prefix of it, then the least recently used ones above the limit."""
        if len(labels) > self._max_tokens:
            return
        if any(common_length(entry.labels, labels) == len(labels) for entry in self._entries):
            return
        self._entries = [entry for entry in self._entries if common_length(entry.labels, labels) < len(entry.labels)]
        self._entries.append(_CachedPrompt(labels, key_values))
        while self.num_tokens > self._max_tokens:
            self._entries.pop(0)
