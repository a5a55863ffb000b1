"""Read the sound of windows in their order, so that the cost of all of them grows with the length of the track.

A track that can be read by seeking keeps one container open. Any other long track is decoded once more from its start,
and only the samples of the current window are kept.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace

import numpy as np
from av import AudioStream
from av.container import InputContainer

from video_llama.errors import MediaError
from video_llama.log import logger
from video_llama.processors.audio_decode import SoundTrack, TrackBlocks, open_track
from video_llama.processors.audio_stream import audio_stream
from video_llama.processors.media_file import MediaFile
from video_llama.processors.sound_index import NotSeekableError, SoundIndex


def open_window_track(media: MediaFile, stack: ExitStack) -> SoundTrack:
    """Open a track whose spans are read with increasing starts. ``stack`` closes it. Raises as ``open_track``."""
    track = open_track(media)
    if track.samples is not None:
        return track
    reader = stack.enter_context(WindowSound(track.index if isinstance(track.index, SoundIndex) else None))
    return replace(track, index=reader)


class WindowSound:
    """Reads spans of a track; each call has spans that start at or after those of the calls before it."""

    def __init__(self, index: SoundIndex | None) -> None:
        self._index = index
        self._stack = ExitStack()
        self._container: tuple[InputContainer, AudioStream] | None = None
        self._blocks: Iterator[np.ndarray] | None = None
        self._held: list[np.ndarray] = []
        self._held_from = 0

    def __enter__(self) -> WindowSound:
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def read(self, media: MediaFile, spans: Sequence[tuple[int, int]]) -> list[np.ndarray]:
        """Return float32 [channels, last - first] of each span (first, last + 1), which lie inside the track."""
        if self._index is not None:
            try:
                return [self._by_seeking(self._index, media, span) for span in spans]
            except NotSeekableError:
                logger.warning("%s: seeking in the sound track failed; it is decoded from the start.", media.name)
                self._index = None
        return self._in_order(media, spans)

    def _by_seeking(self, index: SoundIndex, media: MediaFile, span: tuple[int, int]) -> np.ndarray:
        first, last = span
        if last <= first:
            return np.zeros((index.num_channels, 0), dtype=np.float32)
        if self._container is None or index.is_near_start(first):
            self._stack.close()
            container = self._stack.enter_context(media.container())
            self._container = container, audio_stream(container, media.name)
        return index.read_from(*self._container, span, media.name)

    def _in_order(self, media: MediaFile, spans: Sequence[tuple[int, int]]) -> list[np.ndarray]:
        filled = [span for span in spans if span[0] < span[1]]
        if not filled:
            return [np.zeros((1, 0), dtype=np.float32) for _ in spans]
        first, last = min(low for low, _ in filled), max(high for _, high in filled)
        if self._blocks is None or first < self._held_from:
            self._blocks, self._held, self._held_from = iter(TrackBlocks(media)), [], 0
        while self._held and self._held_from + self._held[0].shape[1] <= first:
            self._held_from += self._held.pop(0).shape[1]
        end = self._held_from + sum(block.shape[1] for block in self._held)
        while end < last:
            block = next(self._blocks, None)
            if block is None:
                raise MediaError(
                    f"{media.name} changed while it was read: its sound ends at sample {end}. Read it again."
                )
            end += block.shape[1]
            if end <= first and not self._held:
                self._held_from = end
            else:
                self._held.append(block)
        held = np.concatenate(self._held, axis=1)
        return [
            held[:, low - self._held_from : high - self._held_from] if low < high else held[:, :0]
            for low, high in spans
        ]
