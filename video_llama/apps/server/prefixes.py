"""Beginnings of prompts that were read before, with their keys and values, for prompts that begin alike."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from video_llama.chat.engine import PreparedTurn

if TYPE_CHECKING:
    from torch import Tensor

    KeyValues = list[tuple[Tensor, Tensor]]
    """Of each layer, keys and values [B, heads, L, width]."""


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


class PrefixStore:
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
