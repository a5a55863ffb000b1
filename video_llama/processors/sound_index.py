"""Read spans of a long sound track by seeking, without decoding the rest.

This is possible where timestamps count samples without gaps: MP4 and MOV files with a complete index of equal steps,
WAV and FLAC files. Everything else is decoded from the start (``audio_decode.py``).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Protocol

import av
import numpy as np
from av import AudioFrame, AudioStream
from av.container import InputContainer

from video_llama.errors import MediaError
from video_llama.processors.audio_stream import SampleCheck, audio_stream, check_rate, samples_of
from video_llama.processors.media_file import MediaFile, has_video_stream, main_video_stream

MIN_SECONDS = 60.0
"""Shorter tracks are decoded whole."""
PREROLL_SECONDS = 0.5
"""Decoding starts this much before a span: the first blocks after a seek depend on earlier ones."""
INDEXED_FORMAT, SAMPLE_FORMATS = "mov", ("wav", "w64", "flac")
CODECS = ("aac", "alac", "flac")
"""Codecs, besides PCM, whose blocks depend on few earlier ones."""


class NotSeekableError(MediaError):
    """The track cannot be read by seeking; it must be decoded from its start."""


class SpanReader(Protocol):
    """Reads spans of a sound track."""

    def read(self, media: MediaFile, spans: Sequence[tuple[int, int]]) -> list[np.ndarray]:
        """Return float32 [channels, last - first] of each span (first, last + 1), which lie inside the track.

        Raises NotSeekableError if that is not possible.
        """
        ...


@dataclass(frozen=True)
class SoundIndex:
    """Where the samples of a track are. Times are in samples of the track's rate, which is its time base."""

    rate: int
    num_channels: int
    num_samples: int
    first: int
    """Timestamp of the first sample."""
    delay: float
    """Seconds from the first frame of the file's picture to the first sample."""

    def read(self, media: MediaFile, spans: Sequence[tuple[int, int]]) -> list[np.ndarray]:
        """Return float32 [channels, last - first] of each span (first, last + 1), which lie inside the track.

        Raises NotSeekableError if a span is damaged, or its blocks do not follow each other.
        """
        return [self._read_span(media, first, last) for first, last in spans]

    def _read_span(self, media: MediaFile, first: int, last: int) -> np.ndarray:
        if last <= first:
            return np.zeros((self.num_channels, 0), dtype=np.float32)
        with media.container() as container:
            return self.read_from(container, audio_stream(container, media.name), (first, last), media.name)

    def is_near_start(self, first: int) -> bool:
        """Whether a span that starts there is decoded from the start of the track, which needs a new container."""
        return first <= PREROLL_SECONDS * self.rate

    def read_from(self, container: InputContainer, stream: AudioStream, span: tuple[int, int], name: str) -> np.ndarray:
        """Return float32 [channels, last - first] of one span, which is not empty, from an open container.

        Raises as :func:`read`. If ``is_near_start`` is true for the span, the container must not have been read.
        """
        first, last = span
        samples = np.empty((self.num_channels, last - first), dtype=np.float32)
        check = SampleCheck()
        is_lossy = not stream.codec_context.name.startswith("pcm_")
        is_at_start = _seek(container, stream, self.first + first)
        expected: int | None = None
        for frame in _frames(container, stream):
            begin = _timestamp(frame, self.rate) - self.first
            if expected is None and (begin != 0 if is_at_start else begin > first):
                raise NotSeekableError("The sound track cannot be read by seeking.")
            if expected is not None and begin != expected:
                raise NotSeekableError("The sound track cannot be read by seeking.")
            expected = begin + frame.samples
            if expected <= first:
                continue
            block = samples_of(frame, is_lossy)
            if block.shape[0] != self.num_channels:
                raise NotSeekableError("The sound track cannot be read by seeking.")
            low, high = max(first, begin), min(last, expected)
            samples[:, low - first : high - first] = block[:, low - begin : high - begin]
            if expected >= last:
                check.add(samples)
                check.raise_if_bad(name, has_video_stream(container))
                return samples
        raise NotSeekableError("The sound track cannot be read by seeking.")


def sound_index(media: MediaFile) -> SoundIndex | None:
    """Return the index of a track of at least ``MIN_SECONDS``, or None if it must be decoded from its start.

    Raises NoAudioTrackError and MediaError as ``audio_stream``.
    """
    if media.duration is not None and media.duration < MIN_SECONDS:
        return None
    with media.container() as container:
        stream = audio_stream(container, media.name)
        check_rate(stream.codec_context.sample_rate, media.name, has_video_stream(container))
        try:
            return _index(container, stream)
        except (NotSeekableError, av.error.FFmpegError, OSError):
            return None


def _index(container: InputContainer, stream: AudioStream) -> SoundIndex:
    rate, codec = stream.codec_context.sample_rate, stream.codec_context.name
    if stream.time_base != Fraction(1, rate) or not (codec in CODECS or codec.startswith("pcm_")):
        raise NotSeekableError("The sound track cannot be read by seeking.")
    formats = container.format.name.split(",")
    if INDEXED_FORMAT in formats:
        end = _end_of_index(stream)
    elif formats[0] in SAMPLE_FORMATS and stream.duration:
        end = (stream.start_time or 0) + stream.duration
    else:
        raise NotSeekableError("The sound track cannot be read by seeking.")
    opening = next(_frames(container, stream), None)
    if opening is None or end - (stream.start_time or 0) < MIN_SECONDS * rate:
        raise NotSeekableError("The sound track cannot be read by seeking.")
    first, video = _timestamp(opening, rate), main_video_stream(container)
    video_start = None
    if video is not None and video.start_time is not None and video.time_base is not None:
        video_start = float(video.start_time * video.time_base)
    _seek(container, stream, end)
    last: int | None = None
    for frame in _frames(container, stream):
        begin = _timestamp(frame, rate)
        if last is not None and begin != last:
            raise NotSeekableError("The sound track cannot be read by seeking.")
        last = begin + frame.samples
    if last is None or not 0 <= end - last <= rate or opening.format.name == "s64":
        raise NotSeekableError("The sound track cannot be read by seeking.")
    delay = 0.0 if video_start is None else first / rate - video_start
    return SoundIndex(rate, len(opening.layout.channels), last - first, first, delay)


def _end_of_index(stream: AudioStream) -> int:
    """Return the timestamp after the last packet. Raises NotSeekableError unless the packets follow in equal steps."""
    entries = getattr(stream, "index_entries", None)
    if entries is None or len(entries) < 2 or stream.frames not in (0, len(entries)):
        raise NotSeekableError("The sound track cannot be read by seeking.")
    times = np.fromiter((entry.timestamp for entry in entries), dtype=np.int64, count=len(entries))
    steps = np.diff(times)
    # PCM in MP4 has chunks of different sizes; a gap of them is found when their blocks are read.
    if steps.min() <= 0 or (steps.min() != steps.max() and not stream.codec_context.name.startswith("pcm_")):
        raise NotSeekableError("The sound track cannot be read by seeking.")
    return int(times[-1] + steps[-1])


def _seek(container: InputContainer, stream: AudioStream, timestamp: int) -> bool:
    """Seek to ``PREROLL_SECONDS`` before a timestamp. Returns whether that is before the start: then nothing is done,
    and the container must not have been read."""
    target = timestamp - int(PREROLL_SECONDS * stream.codec_context.sample_rate)
    if target <= (stream.start_time or 0):
        return True
    container.seek(target, stream=stream)
    return False


def _frames(container: InputContainer, stream: AudioStream) -> Iterator[AudioFrame]:
    """Yield the frames from the current position. Raises NotSeekableError for a damaged packet."""
    try:
        for packet in container.demux(stream):
            if packet.size or packet.dts is None:
                yield from (frame for frame in stream.codec_context.decode(packet) if frame.samples)
    except (av.error.FFmpegError, OSError) as error:
        raise NotSeekableError("The sound track is damaged.") from error


def _timestamp(frame: AudioFrame, rate: int) -> int:
    if frame.pts is None or frame.time_base != Fraction(1, rate) or frame.sample_rate != rate:
        raise NotSeekableError("The sound track cannot be read by seeking.")
    return int(frame.pts)
