"""Keys and values of the beginnings of prompts, shared by conversations about the same encoded media."""

# L positions, P positions up to the last media token

from __future__ import annotations

import threading
import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from video_llama.chat.cache import KeyValues
from video_llama.conversation import EncodedPrompt, common_length

MAX_ENTRIES = 2
"""Each entry has the keys and values of about 120 tokens for a video with sound: 63 MB for a 7B decoder in float16."""


@dataclass(frozen=True)
class _Entry:
    media: tuple[weakref.ref[Any], ...]
    ids: tuple[int, ...]
    key_values: KeyValues


class MediaPrefixes:
    """The beginnings of recent prompts, up to their last media token. An entry ends with any of its media.

    Prompts are compared by token ids and by the identity of the media, whose placeholders have equal ids. Keys and
    values must not be changed in place.
    """

    def __init__(self, max_entries: int = MAX_ENTRIES) -> None:
        self._max_entries, self._entries = max_entries, list[_Entry]()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        with self._lock:
            return sum(map(_is_alive, self._entries))

    def find(self, media: Sequence[object], ids: Sequence[int]) -> tuple[int, KeyValues]:
        """Return the length, keys and values [1, heads, P, width] of the longest known beginning of a prompt.

        At least one token of the prompt is left, since it must be processed to get logits.
        """
        with self._lock:
            entries = [entry for entry in self._entries if _begins_with(media, entry)]
        lengths = [min(common_length(entry.ids, ids), len(ids) - 1) for entry in entries]
        if not lengths or max(lengths) == 0:
            return 0, []
        length = max(lengths)
        pairs = entries[lengths.index(length)].key_values
        return length, [(keys[:, :, :length], values[:, :, :length]) for keys, values in pairs]

    def keep(self, media: Sequence[object], prompt: EncodedPrompt, key_values: KeyValues) -> None:
        """Keep the beginning of a prompt, given the keys and values [1, heads, L, width] of at least that.

        Prompts without media are not kept, nor what is already known.
        """
        if not media or not prompt.spans:
            return
        end = max(span.start + span.length for span in prompt.spans)
        ids = tuple(prompt.input_ids[:end])
        if self.find(media, [*ids, -1])[0] == end:
            return
        pairs = [(keys[:, :, :end].clone(), values[:, :, :end].clone()) for keys, values in key_values]
        entry = _Entry(tuple(weakref.ref(medium, self._remove_ended) for medium in media), ids, pairs)
        with self._lock:
            self._entries = [*filter(_is_alive, self._entries), entry][-self._max_entries :]

    def _remove_ended(self, ended: weakref.ref[Any]) -> None:
        # Called at any point of a thread, also while it holds the lock.
        self._entries = [entry for entry in self._entries if ended not in entry.media]


def _is_alive(entry: _Entry) -> bool:
    return all(ref() is not None for ref in entry.media)


def _begins_with(media: Sequence[object], entry: _Entry) -> bool:
    """Return whether the media of an entry are the first of ``media``."""
    first = media[: len(entry.media)]
    return len(first) == len(entry.media) and all(
        ref() is medium for ref, medium in zip(entry.media, first, strict=True)
    )
