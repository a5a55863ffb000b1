"""Decode the sound track of a file at its own sampling rate.

In: an audio file, or a video with a sound track. Out: float32 [channels, samples] in about -1..1, and the rate in Hz.
Of a long track only the requested parts are kept in memory. A file without a track raises ``NoAudioTrackError``, a
track that cannot be used ``MediaError``.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import av
import numpy as np
from av import AudioFrame, AudioStream, Packet
from av.container import InputContainer
from av.stream import Discard

from video_llama.errors import MediaError, NoAudioTrackError
from video_llama.log import logger
from video_llama.processors.media_file import MediaFile, Source, has_video_stream, open_media

HELD_BYTES = 64 * 2**20  # of float32 samples: 3 minutes of stereo at 48 kHz; a longer track is decoded twice
PCM16_SCALE = 32768.0
# Whole scale of the integer sample formats; unsigned 8 bit is centred on 128.
INTEGER_SCALE = {"u8": 128.0, "s16": PCM16_SCALE, "s32": 2147483648.0, "s64": 9223372036854775808.0}


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
    offset: int = 0

    @classmethod
    def of(cls, waveform: np.ndarray, rate: int, name: str) -> SoundTrack:
        """Return the track of a waveform [channels, samples]. Raises MediaError for NaN or infinite samples."""
        num_bad = int(waveform.size - np.count_nonzero(np.isfinite(waveform)))
        _check_samples(waveform.size, num_bad, name, has_video=False)
        num_channels, num_samples = waveform.shape
        return cls(name, num_channels, num_samples, rate, np.asarray(waveform, dtype=np.float32))

    def span(self, first: int, last: int, name: str) -> SoundTrack:
        """Return the samples from ``first`` to ``last`` (excluded) as a track."""
        return replace(self, name=name, num_samples=last - first, offset=self.offset + first)

    def cut(self, spans: Sequence[tuple[int, int]]) -> list[np.ndarray]:
        """Return float32 [channels, last - first] of each span (first, last + 1); zeros outside the track.

        Raises MediaError if the file has become shorter since it was opened.
        """
        parts = [np.zeros((self.num_channels, last - first), dtype=np.float32) for first, last in spans]
        within = [(max(first, 0), min(last, self.num_samples)) for first, last in spans]
        end = self.offset + max((last for first, last in within if first < last), default=0)
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
    and MediaError if the file or the track cannot be read, is empty, or has NaN or infinite samples.
    """
    with open_media(source) as media:
        return _decoded_track(media, held_bytes)


def _decoded_track(media: MediaFile, held_bytes: int) -> SoundTrack:
    decoding = _Decoding(media)
    blocks: list[np.ndarray] = []
    channels: set[int] = set()
    num_samples = num_values = num_bad = 0
    for block in decoding:
        channels.add(block.shape[0])
        num_samples += block.shape[1]
        num_values += block.size
        num_bad += block.size - int(np.count_nonzero(np.isfinite(block)))
        if num_values * block.itemsize <= held_bytes:
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
    _check_samples(num_values, num_bad, media.name, decoding.has_video)
    held = np.concatenate(blocks, axis=1) if blocks else None
    return SoundTrack(media.name, channels.pop(), num_samples, decoding.rate, held, media, decoding.has_video)


def read_waveform(source: Source) -> tuple[np.ndarray, int]:
    """Return (float32 [channels, samples], native rate in Hz) of the main sound track. Raises as ``open_track``."""
    track = open_track(source, held_bytes=sys.maxsize)
    assert track.samples is not None
    return track.samples, track.rate


def without_audio(remedy: str, has_video: bool) -> str:
    """Return a remedy as a sentence; if there is a picture, it also proposes to ask without audio."""
    return f"{remedy}, or ask without audio (--no-audio)." if has_video else f"{remedy}."


def _check_samples(num_values: int, num_bad: int, name: str, has_video: bool) -> None:
    if num_bad:
        raise MediaError(
            f"{name}: {num_bad} of {num_values} sound samples are not finite numbers (NaN or infinity). "
            + without_audio("Export the audio again", has_video)
        )


def audio_stream(container: InputContainer, name: str) -> AudioStream:
    """Return the main sound track and discard all other streams. Raises NoAudioTrackError or MediaError."""
    best = container.streams.best("audio")
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
    """Iterate over the blocks [channels, samples] of a file's track, in order.

    ``rate`` and ``num_refused`` (packets that the decoder rejected) are valid after the last block.
    """

    def __init__(self, media: MediaFile) -> None:
        self.media = media
        self.codec = ""
        self.rate = 0
        self.num_refused = 0
        self.has_video = False

    def __iter__(self) -> Iterator[np.ndarray]:
        with self.media.container() as container:
            stream = audio_stream(container, self.media.name)
            self.codec, self.has_video = stream.codec_context.name, has_video_stream(container)
            is_lossy = not self.codec.startswith("pcm_")
            try:
                for packet in container.demux(stream):
                    for frame in self._frames(stream, packet):
                        yield _samples(frame, is_lossy)
            except (av.error.FFmpegError, OSError):
                self.num_refused += 1  # the file is truncated
            self.rate = stream.codec_context.sample_rate

    def _frames(self, stream: AudioStream, packet: Packet[AudioStream]) -> list[AudioFrame]:
        try:
            return [frame for frame in stream.codec_context.decode(packet) if frame.samples]
        except av.error.InvalidDataError:
            self.num_refused += 1
            return []


def _samples(frame: AudioFrame, is_lossy: bool) -> np.ndarray:
    """Return float32 [channels, samples] of one decoded frame, integers scaled to -1..1.

    Lossy codecs (AAC, MP3, ...) decode to floats. These are rounded to 16 bits and clipped, as in the reference: in
    quiet mel bins the rounding changes the log-mel by up to 0.9.
    """
    values = frame.to_ndarray()
    if not frame.format.is_planar:
        values = values.reshape(frame.samples, -1).T
    kind = frame.format.name.removesuffix("p")
    if kind in INTEGER_SCALE:
        offset = 128.0 if kind == "u8" else 0.0
        return ((values.astype(np.float64) - offset) / INTEGER_SCALE[kind]).astype(np.float32)
    if is_lossy:
        values = np.clip(np.rint(values * np.float32(PCM16_SCALE)), -PCM16_SCALE, PCM16_SCALE - 1) / PCM16_SCALE
    return np.ascontiguousarray(values, dtype=np.float32)
