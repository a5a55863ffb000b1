"""Continuous batching: rows join and leave a batch between two decoding steps, with a cache of prompt prefixes.

Each prompt is processed alone, in chunks, and rows do not attend to each other. In float32 a greedy row generates the
same tokens as it does alone.
"""

# B rows, L positions, D decoder width, V vocabulary

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from video_llama.apps.server.cache_limit import final_length
from video_llama.apps.server.chunk_size import ChunkSize
from video_llama.apps.server.key_values import PromptKeyValues, RowsKeyValues
from video_llama.apps.server.work import clock_of, synchronize
from video_llama.chat.cache import KeyValues
from video_llama.chat.decoding import TokenChooser, append_to_cache, next_tokens
from video_llama.chat.engine import Engine, PreparedTurn
from video_llama.conversation import common_length
from video_llama.models.encoding_steps import Steps, run_steps


class DecodeBatch:
    """The rows being decoded. Their order changes only in ``leave``."""

    def __init__(self, engine: Engine, prefixes: PrefixCache, max_rows: int = 2**30) -> None:
        self._engine, self._prefixes = engine, prefixes
        self._max_rows, self._max_tokens = max_rows, math.inf
        self._num_layers = engine.config.text_config.num_hidden_layers
        self.clear()

    def __len__(self) -> int:
        return len(self._choosers)

    @property
    def num_tokens(self) -> int:
        """Number of positions in the rows' buffer."""
        return self._cache.num_tokens

    def reserve(self, turn: PreparedTurn, max_tokens: float) -> int:
        """Let the rows' buffer grow for the turn that joins next, to ``max_tokens`` positions with the turn's prompt.

        Returns the number of positions that both will have at most. It is above ``max_tokens`` if they do not fit.
        """
        num_prompt = len(turn.prompt.input_ids)
        self._max_tokens = self._cache.max_tokens = max_tokens - num_prompt
        return num_prompt + self._cache.num_tokens_with(final_length(turn))

    def clear(self) -> None:
        """Remove all rows."""
        self._choosers: list[TokenChooser] = []
        self._tokens: list[Tensor] = []
        """The last token id of each row, [1], on the device."""
        self._cache = RowsKeyValues(self._num_layers, self._max_rows, self._max_tokens)

    def join(self, turn: PreparedTurn, media_keys: Sequence[str]) -> tuple[int, int]:
        """Do all steps of :meth:`join_steps`."""
        return run_steps(self.join_steps(turn, media_keys, ChunkSize(len(turn.prompt.input_ids))))

    def join_steps(
        self, turn: PreparedTurn, media_keys: Sequence[str], chunk_size: ChunkSize
    ) -> Steps[tuple[int, int]]:
        """Process a prompt, one chunk per step, and append its row.

        Returns the first token of the answer and the number of prompt tokens taken from the prefix cache. Between the
        steps, other rows can be decoded and leave; no other row may join.
        """
        engine, labels = self._engine, prompt_labels(turn, media_keys)
        num_reused, prefix = self._prefixes.longest(labels)
        cache = PromptKeyValues(self._num_layers, len(labels))
        yield from cache.begin_steps(prefix)
        embeds_1LD, mask_1L = engine.embed([turn])
        num_cached, clock = num_reused, clock_of(engine.model.device)
        while (chunk := chunk_size.tokens()) < len(labels) - num_cached:
            start = clock()
            append_to_cache(engine.model, embeds_1LD[:, num_cached : num_cached + chunk], cache, num_cached)
            synchronize(engine.model.device)
            chunk_size.measured(chunk, clock() - start)
            num_cached += chunk
            yield
        choose = TokenChooser(turn.decoding, engine.tokenizer.bos_id, 1, engine.model.device)
        chosen_1, [token] = next_tokens(engine.model, embeds_1LD[:, num_cached:], mask_1L, cache, choose)
        key_values = cache.key_values()
        self._prefixes.keep(labels, key_values)
        appended = None
        while appended is not self._cache:  # ``clear`` replaces it
            appended = self._cache
            yield from appended.append_steps(key_values, final_length(turn))
        self._choosers.append(choose)
        self._tokens.append(chosen_1)
        return token, num_reused

    def step(self) -> list[int]:
        """Return the next token of every row. The batch must not be empty."""
        assert self._choosers
        model, choosers = self._engine.model, self._choosers

        def choose(logits_BV: Tensor) -> Tensor:
            return torch.cat([choose(logits_BV[row : row + 1]) for row, choose in enumerate(choosers)])

        with torch.no_grad():
            embeds_B1D = model.get_input_embeddings()(torch.cat(self._tokens)[:, None])
        mask_B11L, positions_B1 = self._cache.begin_step(embeds_B1D.dtype)
        chosen_B, tokens = next_tokens(model, embeds_B1D, mask_B11L, self._cache, choose, positions_B1)
        self._cache.end_step()
        self._tokens = list(torch.split(chosen_B, 1))
        return tokens

    def leave(self, rows: Sequence[int]) -> list[int]:
        """Remove these rows. Returns the former indices of the remaining rows, in their new order."""
        order = list(range(len(self)))
        for row in sorted(set(rows), reverse=True):
            self._cache.remove(row)
            for places in (order, self._choosers, self._tokens):
                _replace_by_last(places, row)
        return order


def _replace_by_last(values: list[Any], index: int) -> None:
    values[index] = values[-1]
    values.pop()


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
        self._max_tokens = self._limit = max_tokens
        self._entries: list[_CachedPrompt] = []

    @property
    def num_tokens(self) -> int:
        """Number of cached prompt tokens."""
        return sum(len(entry.labels) for entry in self._entries)

    def limit(self, max_tokens: int) -> None:
        """Keep at most this many tokens, and at most those of the constructor, until the next call."""
        self._limit = min(self._max_tokens, max_tokens)
        self._remove_oldest()

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
        if len(labels) > self._limit:
            return
        if any(common_length(entry.labels, labels) == len(labels) for entry in self._entries):
            return
        self._entries = [entry for entry in self._entries if common_length(entry.labels, labels) < len(entry.labels)]
        self._entries.append(_CachedPrompt(labels, key_values))
        self._remove_oldest()

    def _remove_oldest(self) -> None:
        while self.num_tokens > self._limit:
            self._entries.pop(0)
