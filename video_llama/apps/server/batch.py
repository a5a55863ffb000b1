"""Answers that are decoded together: each joins with its prompt read, all advance by a token, the finished leave.

Rows are padded on the left to the longest, and a prompt is read alone, so that no row sees another. Greedy rows get the
tokens that they get alone (in float32, where rounding decides no token).
"""

# B rows, L positions, D decoder width, V vocabulary

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from video_llama.chat.decoding import TokenChooser, last_logits
from video_llama.chat.engine import Engine, PreparedTurn

KeyValues = list[tuple[Tensor, Tensor]]
"""Of each layer, keys and values [B, heads, L, width]."""


class DecodeBatch:
    """Any number of rows, in the order in which they joined."""

    def __init__(self, engine: Engine, prefixes: PrefixCache) -> None:
        self._engine, self._prefixes = engine, prefixes
        self.clear()

    def __len__(self) -> int:
        return len(self._choosers)

    def clear(self) -> None:
        """Drop every row."""
        self._choosers: list[TokenChooser] = []
        self._tokens: list[int] = []
        self._mask_BL: Tensor | None = None
        self._cache: Any = None

    def join(self, turn: PreparedTurn, media_keys: Sequence[str]) -> tuple[int, int]:
        """Read a prompt and add its row at the end.

        Returns the answer's first id, and how many of the prompt's tokens another prompt had read before.
        """
        engine, labels = self._engine, prompt_labels(turn, media_keys)
        num_reused, key_values = self._prefixes.longest(labels)
        cache = _cache_of(key_values)
        embeds_1LD, mask_1L = engine.embed([turn])
        logits_1V = last_logits(engine.model, embeds_1LD[:, num_reused:], mask_1L, cache)
        choose = TokenChooser(turn.decoding, engine.tokenizer.bos_id, 1, engine.model.device)
        token = int(choose(logits_1V))
        read = _key_values(cache)
        self._prefixes.keep(labels, read)
        self._add(read, mask_1L)
        self._choosers.append(choose)
        self._tokens.append(token)
        return token, num_reused

    def step(self) -> list[int]:
        """The next id of every row. Not to be called without rows."""
        assert self._mask_BL is not None
        model = self._engine.model
        self._mask_BL = torch.cat([self._mask_BL, self._mask_BL.new_ones(len(self), 1)], dim=1)
        with torch.no_grad():
            embeds_B1D = model.get_input_embeddings()(torch.tensor(self._tokens, device=model.device)[:, None])
        logits_BV = last_logits(model, embeds_B1D, self._mask_BL, self._cache)
        self._tokens = [int(choose(logits_BV[row : row + 1])) for row, choose in enumerate(self._choosers)]
        return self._tokens

    def leave(self, rows: Sequence[int]) -> None:
        """Drop these rows, and the padding that no other row needs."""
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

    def _add(self, key_values: KeyValues, mask_1L: Tensor) -> None:
        """Put one row under the others, both padded on the left to one length."""
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
    """Zeros in front along ``dim`` up to ``length``."""
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
    """One label per token of a prompt: its id, or for a medium's token the medium's key and the place in it.

    ``media_keys`` name the content of ``turn.media``, in their order. Two prompts with the same beginning of labels
    put the same embeddings before the decoder there.
    """
    labels: list[Hashable] = list(turn.prompt.input_ids)
    keyed = list(zip(media_keys, turn.media, strict=True))
    names = {
        "video": iter([key for key, medium in keyed if medium.video_tokens is not None]),
        "audio": iter([key for key, medium in keyed if medium.audio_tokens is not None]),
    }
    for span in turn.prompt.spans:
        key = next(names[span.kind])
        labels[span.start : span.start + span.length] = [(span.kind, key, place) for place in range(span.length)]
    return labels


@dataclass(frozen=True)
class _Entry:
    labels: list[Hashable]
    key_values: KeyValues


class PrefixCache:
    """Keeps the prompts that were used last, as many as ``max_tokens`` tokens allow."""

    def __init__(self, max_tokens: int) -> None:
        self._max_tokens = max_tokens
        self._entries: list[_Entry] = []

    @property
    def num_tokens(self) -> int:
        """Tokens that are kept."""
        return sum(len(entry.labels) for entry in self._entries)

    def longest(self, labels: Sequence[Hashable]) -> tuple[int, KeyValues]:
        """The longest beginning of ``labels`` at hand, always shorter than all of them: its length, keys and values."""
        if not self._entries:
            return 0, []
        lengths = [_num_common(entry.labels, labels) for entry in self._entries]
        best = max(range(len(lengths)), key=lengths.__getitem__)
        length = min(lengths[best], len(labels) - 1)
        if length == 0:
            return 0, []
        entry = self._entries.pop(best)
        self._entries.append(entry)
        return length, [(keys[..., :length, :], values[..., :length, :]) for keys, values in entry.key_values]

    def keep(self, labels: list[Hashable], key_values: KeyValues) -> None:
        """Keep a prompt's keys and values; what it contains whole is dropped, and the oldest where room is wanted."""
        if len(labels) > self._max_tokens:
            return
        if any(_num_common(entry.labels, labels) == len(labels) for entry in self._entries):
            return
        self._entries = [entry for entry in self._entries if _num_common(entry.labels, labels) < len(entry.labels)]
        self._entries.append(_Entry(labels, key_values))
        while self.num_tokens > self._max_tokens:
            self._entries.pop(0)


def _num_common(kept: Sequence[Hashable], asked: Sequence[Hashable]) -> int:
    limit = min(len(kept), len(asked))
    return next((place for place in range(limit) if kept[place] != asked[place]), limit)
