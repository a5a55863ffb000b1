"""Decode the sound track of a file at its own sampling rate.

In: an audio file, or a video with a sound track. Out: float32 [channels, samples] in about -1..1, and the rate in Hz.
Of a long track only the requested parts are kept in memory. A file without a track raises ``NoAudioTrackError``, a
track that cannot be used ``MediaError``.

Positions in a track follow the timestamps of the file: a gap between packets is filled with silence, and parts with
another sampling rate are resampled to the rate of the first part.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import av
import numpy as np
from av import AudioFrame, AudioStream, Packet, VideoStream
from av.container import InputContainer

from video_llama.errors import MediaError
from video_llama.log import logger
from video_llama.processors.audio_stream import SampleCheck, audio_stream, check_rate, samples_of, without_audio
from video_llama.processors.media_file import (
    JUMP_SECONDS,
    TS_DISCONT,
    MediaFile,
    Source,
    has_video_stream,
    main_video_stream,
    open_media,
)
from video_llama.processors.resample import StreamResampler
from video_llama.processors.sound_index import NotSeekableError, SpanReader, sound_index

HELD_BYTES = 64 * 2**20  # of float32 samples: 3 minutes of stereo at 48 kHz; a longer track is decoded twice
GAP_SECONDS = 0.1  # shorter gaps between packets are rounding of timestamps
MAX_GAP_SECONDS = 3600.0  # a longer gap is a jump of the clock and is not filled


@dataclass(frozen=True)
class SoundTrack:
    """A sound track, or a span of one, whose parts are read on demand.

    ``samples`` holds the whole track if it is short; otherwise ``media`` is decoded again for every ``cut``.
    """

    name: str
    num_channels: int
    num_samples: int
    rate: int
    samples: np.ndarray | None = None
    media: MediaFile | None = None
    has_video: bool = False
    """Whether the file also has a picture, so that a question can be asked without its sound."""
    delay: float = 0.0
    """Seconds from the first frame of the file's picture to the first sample; negative if the sound starts earlier."""
    offset: int = 0
    """Position of the span in the track, in samples."""
    num_total: int | None = None
    """Samples of the whole track; None if this is the whole track."""
    index: SpanReader | None = None
    """Reads spans, such as a ``SoundIndex``; None: they are in memory or are decoded from the start."""

    @classmethod
    def of(cls, waveform: np.ndarray, rate: int, name: str) -> SoundTrack:
        """Return the track of a waveform [channels, samples]. Raises MediaError for invalid samples or rates."""
        check_rate(rate, name, has_video=False)
        check = SampleCheck()
        check.add(waveform)
        check.raise_if_bad(name, has_video=False)
        num_channels, num_samples = waveform.shape
        return cls(name, num_channels, num_samples, rate, np.asarray(waveform, dtype=np.float32))

    def span(self, first: int, last: int, name: str) -> SoundTrack:
        """Return the samples from ``first`` to ``last`` (excluded) as a track; outside the track they are zero."""
        total = self.num_samples if self.num_total is None else self.num_total
        return replace(self, name=name, num_samples=last - first, offset=self.offset + first, num_total=total)

    def cut(self, spans: Sequence[tuple[int, int]]) -> list[np.ndarray]:
        """Return float32 [channels, last - first] of each span (first, last + 1); zeros outside the track.

        Raises MediaError if the file has become shorter since it was opened.
        """
        total = self.num_samples if self.num_total is None else self.num_total
        if self.index is not None:
            try:
                return self._by_seeking(self.index, spans, total)
            except NotSeekableError:
                logger.warning("%s: seeking in the sound track failed; it is decoded from the start.", self.name)
        parts = [np.zeros((self.num_channels, last - first), dtype=np.float32) for first, last in spans]
        within = [(max(first, 0), min(last, self.num_samples)) for first, last in spans]
        end = min(self.offset + max((last for first, last in within if first < last), default=0), total)
        at = 0
        for block in [self.samples] if self.samples is not None else TrackBlocks(self._media()):
            for part, (first, _), (inner, last) in zip(parts, spans, within, strict=True):
                begin = max(self.offset + inner, at)
                stop = min(self.offset + last, at + block.shape[1])
                if begin < stop:
                    place = begin - self.offset - first
                    part[:, place : place + stop - begin] = block[:, begin - at : stop - at]
            at += block.shape[1]
            if at >= end:
                return parts
        raise MediaError(f"{self.name} changed while it was read: its sound ends at sample {at}. Read it again.")

    def _by_seeking(self, index: SpanReader, spans: Sequence[tuple[int, int]], total: int) -> list[np.ndarray]:
        inside = []
        for first, last in spans:
            begin, end = max(first, 0), min(last, self.num_samples)
            low = min(max(self.offset + begin, 0), total)
            inside.append((low, max(min(self.offset + end, total), low)))
        blocks = index.read(self._media(), inside)
        parts = [np.zeros((self.num_channels, last - first), dtype=np.float32) for first, last in spans]
        for part, (first, _), (low, _), block in zip(parts, spans, inside, blocks, strict=True):
            place = low - self.offset - first
            part[:, place : place + block.shape[1]] = block
        return parts

    def _media(self) -> MediaFile:
        assert self.media is not None, "a track is in memory or can be decoded"
        return self.media


def open_track(source: Source, held_bytes: int = HELD_BYTES, *, seeks: bool = True) -> SoundTrack:
    """Open the main sound track. Its samples are kept in memory if they take at most ``held_bytes``.

    Long tracks of some formats are read by seeking (``sound_index.py``), unless ``seeks`` is False; then damage outside
    of the spans that are read is not found. Others are decoded once to find their length. A track that is not in memory
    needs ``source`` for as long as it is used. Raises NoAudioTrackError if the file has no sound track, and MediaError
    if the file or the track cannot be read, is empty, or has invalid samples (NaN, infinity, or beyond MAX_AMPLITUDE).
    """
    with open_media(source) as media:
        index = sound_index(media) if seeks else None
        if index is None:
            return _decoded_track(media, held_bytes)
        return SoundTrack(
            media.name,
            index.num_channels,
            index.num_samples,
            index.rate,
            media=media,
            has_video=media.kind == "video",
            delay=index.delay,
            index=index,
        )


def _decoded_track(media: MediaFile, held_bytes: int) -> SoundTrack:
    decoding, check = TrackBlocks(media), SampleCheck()
    blocks: list[np.ndarray] = []
    channels: set[int] = set()
    num_samples = 0
    for block in decoding:
        channels.add(block.shape[0])
        num_samples += block.shape[1]
        check.add(block)
        if check.num_values * block.itemsize <= held_bytes:
            blocks.append(block)
        else:
            blocks.clear()
    if not channels:
        raise MediaError(
            f"{media.name} has a sound track ({decoding.codec}) without samples: it is empty or damaged. "
            + without_audio("Give a file with sound", decoding.has_video)
        )
    if len(channels) > 1:
        raise MediaError(f"The number of channels of {media.name} changes. Convert it: ffmpeg -i FILE -ac 2 out.wav")
    if decoding.num_refused:
        logger.warning("%s: skipped %d damaged packets of the sound track.", media.name, decoding.num_refused)
    check.raise_if_bad(media.name, decoding.has_video)
    held = np.concatenate(blocks, axis=1) if blocks else None
    return SoundTrack(
        media.name, channels.pop(), num_samples, decoding.rate, held, media, decoding.has_video, decoding.delay
    )


def read_waveform(source: Source) -> tuple[np.ndarray, int]:
    """Return (float32 [channels, samples], native rate in Hz) of the main sound track. Raises as ``open_track``."""
    track = open_track(source, held_bytes=sys.maxsize, seeks=False)
    assert track.samples is not None
    return track.samples, track.rate


class TrackBlocks:
    """Iterate over the blocks [channels, samples] of a file's track, in order, at the rate of its first block.

    ``rate``, ``delay`` and ``num_refused`` (packets that the decoder rejected) are valid after the last block.
    """

    def __init__(self, media: MediaFile) -> None:
        self.media = media
        self.codec = ""
        self.rate = 0
        self.delay = 0.0
        self.num_refused = 0
        self.has_video = False

    def __iter__(self) -> Iterator[np.ndarray]:
        with self.media.container() as container:
            stream = audio_stream(container, self.media.name)
            self.codec, self.has_video = stream.codec_context.name, has_video_stream(container)
            check_rate(stream.codec_context.sample_rate, self.media.name, self.has_video)
            video = main_video_stream(container)
            timeline = _Timeline(container, None if video is None else _seconds(video.start_time, video))
            try:
                for packet in container.demux(stream):
                    for frame in self._frames(stream, packet):
                        check_rate(frame.sample_rate, self.media.name, self.has_video)
                        yield from timeline.add(frame, samples_of(frame, is_lossy=not self.codec.startswith("pcm_")))
            except (av.error.FFmpegError, OSError):
                self.num_refused += 1  # the file is truncated
            yield from timeline.finish()
            self.rate, self.delay = timeline.rate or stream.codec_context.sample_rate, timeline.delay

    def _frames(self, stream: AudioStream, packet: Packet[AudioStream]) -> list[AudioFrame]:
        if packet.size == 0 and packet.dts is not None:
            return []  # an empty packet; the decoder would take it for the end
        try:
            return [frame for frame in stream.codec_context.decode(packet) if frame.samples]
        except av.error.InvalidDataError:
            self.num_refused += 1
            return []


class _Timeline:
    """Place decoded blocks in time: fill gaps with silence, and resample blocks to the rate of the first one."""

    def __init__(self, container: InputContainer, video_start: float | None) -> None:
        self.rate = 0
        self.delay = 0.0
        self._video_start = video_start
        self._longest_gap = JUMP_SECONDS if container.format.flags & TS_DISCONT else MAX_GAP_SECONDS
        self._filled = 0.0
        self._end: float | None = None
        self._resampler: StreamResampler | None = None

    def add(self, frame: AudioFrame, samples: np.ndarray) -> Iterator[np.ndarray]:
        """Yield the silence before a frame, if there is a gap, and its samples."""
        start = None if frame.pts is None or frame.time_base is None else float(frame.pts * frame.time_base)
        if not self.rate:
            self.rate = frame.sample_rate
            self.delay = start - self._video_start if start is not None and self._video_start is not None else 0.0
        if start is not None and self._end is not None:
            yield from self._silence(start - self._end, len(samples))
        begin = self._end if start is None else start
        self._end = None if begin is None else begin + samples.shape[1] / frame.sample_rate
        yield from self._at_rate(samples, frame.sample_rate)

    def finish(self) -> Iterator[np.ndarray]:
        """Yield the samples that remain in the resampler."""
        if self._resampler is not None:
            yield from self._resampler.finish()
            self._resampler = None

    def _silence(self, gap: float, num_channels: int) -> Iterator[np.ndarray]:
        if not GAP_SECONDS < gap <= self._longest_gap or self._filled + gap > MAX_GAP_SECONDS:
            return
        yield from self.finish()
        self._filled += gap
        missing = round(gap * self.rate)
        for first in range(0, missing, self.rate):
            yield np.zeros((num_channels, min(self.rate, missing - first)), dtype=np.float32)

    def _at_rate(self, samples: np.ndarray, rate: int) -> Iterator[np.ndarray]:
        if self._resampler is not None and self._resampler.rate != rate:
            yield from self.finish()
        if rate == self.rate:
            yield samples
            return
        self._resampler = self._resampler or StreamResampler(rate, self.rate)
        yield from self._resampler.add(samples)


def _seconds(time: int | None, stream: VideoStream) -> float | None:
    return None if time is None or stream.time_base is None else float(time * stream.time_base)
