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
from av import AudioFrame, AudioResampler, AudioStream, Packet, VideoStream
from av.container import InputContainer
from av.stream import Discard

from video_llama.errors import MediaError, NoAudioTrackError
from video_llama.log import logger
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

HELD_BYTES = 64 * 2**20  # of float32 samples: 3 minutes of stereo at 48 kHz; a longer track is decoded twice
MIN_RATE, MAX_RATE = 1_000, 768_000  # Hz; headers of damaged files give other rates
MAX_AMPLITUDE = 1e6  # full scale is 1; squares of values above 1e16 overflow float32
GAP_SECONDS = 0.1  # shorter gaps between packets are rounding of timestamps
MAX_GAP_SECONDS = 3600.0  # a longer gap is a jump of the clock and is not filled
PCM16_SCALE = 32768.0
# Whole scale of the integer sample formats; unsigned 8 bit is centred on 128.
INTEGER_SCALE = {"u8": 128.0, "s16": PCM16_SCALE, "s32": 2147483648.0}


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

    @classmethod
    def of(cls, waveform: np.ndarray, rate: int, name: str) -> SoundTrack:
        """Return the track of a waveform [channels, samples]. Raises MediaError for invalid samples or rates."""
        check_rate(rate, name, has_video=False)
        check = _SampleCheck()
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
        parts = [np.zeros((self.num_channels, last - first), dtype=np.float32) for first, last in spans]
        within = [(max(first, 0), min(last, self.num_samples)) for first, last in spans]
        end = min(self.offset + max((last for first, last in within if first < last), default=0), total)
        at = 0
        for block in [self.samples] if self.samples is not None else _Decoding(self._media()):
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

    def _media(self) -> MediaFile:
        assert self.media is not None, "a track is in memory or can be decoded"
        return self.media


def open_track(source: Source, held_bytes: int = HELD_BYTES) -> SoundTrack:
    """Decode the main sound track once; its samples are kept in memory if they take at most ``held_bytes``.

    A longer track needs ``source`` for as long as it is used. Raises NoAudioTrackError if the file has no sound track,
    and MediaError if the file or the track cannot be read, is empty, or has invalid samples (NaN, infinity, or beyond
    MAX_AMPLITUDE).
    """
    with open_media(source) as media:
        return _decoded_track(media, held_bytes)


def _decoded_track(media: MediaFile, held_bytes: int) -> SoundTrack:
    decoding, check = _Decoding(media), _SampleCheck()
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
    track = open_track(source, held_bytes=sys.maxsize)
    assert track.samples is not None
    return track.samples, track.rate


def without_audio(remedy: str, has_video: bool) -> str:
    """Return a remedy as a sentence; if there is a picture, it also proposes to ask without audio."""
    return f"{remedy}, or ask without audio (--no-audio)." if has_video else f"{remedy}."


def check_rate(rate: int, name: str, has_video: bool) -> None:
    """Raise MediaError for a sampling rate outside MIN_RATE to MAX_RATE."""
    if not MIN_RATE <= rate <= MAX_RATE:
        raise MediaError(
            f"{name} has a sampling rate of {rate} Hz. Rates from {MIN_RATE} to {MAX_RATE} Hz are supported. "
            + without_audio("Convert it: ffmpeg -i FILE -ar 16000 out.wav", has_video)
        )


class _SampleCheck:
    """Count the samples of a track that are not valid."""

    def __init__(self) -> None:
        self.num_values = self.num_not_finite = 0
        self.peak = 0.0

    def add(self, block: np.ndarray) -> None:
        is_finite = np.isfinite(block)
        self.num_values += block.size
        self.num_not_finite += block.size - int(np.count_nonzero(is_finite))
        if block.size:
            self.peak = max(self.peak, float(np.abs(np.where(is_finite, block, 0)).max()))

    def raise_if_bad(self, name: str, has_video: bool) -> None:
        if self.num_not_finite:
            problem = (
                f"{self.num_not_finite} of {self.num_values} sound samples are not finite numbers (NaN or infinity)"
            )
        elif self.peak > MAX_AMPLITUDE:
            problem = f"its sound samples reach {self.peak:.2g}, and full scale is 1"
        else:
            return
        raise MediaError(f"{name}: {problem}. {without_audio('Export the audio again', has_video)}")


def audio_stream(container: InputContainer, name: str) -> AudioStream:
    """Return the main sound track, of the programme of the picture, and discard all other streams.

    Raises NoAudioTrackError if there is none, MediaError if it cannot be decoded.
    """
    best = container.streams.best("audio", related=main_video_stream(container))
    streams = [stream for stream in container.streams.audio if best is None or stream.index == best.index]
    if not streams:
        raise NoAudioTrackError(
            f"{name} has no audio stream. Ask without audio (--no-audio) or give a file with sound."
        )
    stream = streams[0]
    if getattr(stream, "codec_context", None) is None or not stream.codec_context.sample_rate:
        raise MediaError(
            f"{name} has a sound track that cannot be decoded. "
            + without_audio("Convert it: ffmpeg -i FILE -c:a aac out.mp4", has_video_stream(container))
        )
    for other in container.streams:
        if other.index != stream.index:
            other.discard = Discard.all
    return stream


class _Decoding:
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
                        yield from timeline.add(frame, _samples(frame, is_lossy=not self.codec.startswith("pcm_")))
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


def _samples(frame: AudioFrame, is_lossy: bool) -> np.ndarray:
    """Return float32 [channels, samples] of one decoded frame, integers scaled to -1..1.

    Lossy codecs (AAC, MP3, ...) decode to floats. These are rounded to 16 bits and clipped, as in the reference: in
    quiet mel bins the rounding changes the log-mel by up to 0.9.
    """
    kind = frame.format.name.removesuffix("p")
    if kind == "s64":  # numpy conversion is not supported by PyAV
        [frame] = AudioResampler(format="dblp", layout=frame.layout, rate=frame.sample_rate).resample(frame)
        kind = "dbl"
    values = frame.to_ndarray()
    if not frame.format.is_planar:
        values = values.reshape(frame.samples, -1).T
    if kind in INTEGER_SCALE:
        offset = 128.0 if kind == "u8" else 0.0
        return ((values.astype(np.float64) - offset) / INTEGER_SCALE[kind]).astype(np.float32)
    if is_lossy:
        values = np.clip(np.rint(values * np.float32(PCM16_SCALE)), -PCM16_SCALE, PCM16_SCALE - 1) / PCM16_SCALE
    return np.ascontiguousarray(values, dtype=np.float32)
