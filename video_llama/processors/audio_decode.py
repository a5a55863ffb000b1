"""Sound from a file: the track's samples as they are, at the rate of the file.

In: an audio file, or a video with a sound track. Out: float32 [channels, samples] in about -1..1, and the rate in Hz;
of a long track only the parts that are asked for.
Three things are kept apart: no track (``NoAudioTrackError``), a track that cannot be used (``MediaError``), sound.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from video_llama.errors import MediaError, NoAudioTrackError
from video_llama.log import logger
from video_llama.processors.sources import MediaFile, Source, as_media, has_video_stream

if TYPE_CHECKING:
    from av import AudioFrame, AudioStream, Packet
    from av.container import InputContainer

HELD_BYTES = 64 * 2**20  # of float32 samples: 3 minutes of stereo at 48 kHz; a longer track is decoded twice
PCM16_SCALE = 32768.0
# Whole scale of the integer sample formats; unsigned 8 bit is centred on 128.
INTEGER_SCALE = {"u8": 128.0, "s16": PCM16_SCALE, "s32": 2147483648.0, "s64": 9223372036854775808.0}


@dataclass(frozen=True)
class SoundTrack:
    """A sound track, or a span of one, of which parts are read: what is asked for is in memory, not the whole.

    ``samples`` are those of the whole track where they are held; otherwise ``media`` is decoded anew for every ``cut``.
    """

    name: str
    num_channels: int
    num_samples: int
    rate: int
    samples: np.ndarray | None = None
    media: MediaFile | None = None
    has_video: bool = False
    """Whether the file can be asked about without its sound."""
    offset: int = 0

    @classmethod
    def of(cls, waveform: np.ndarray, rate: int, name: str) -> SoundTrack:
        """A waveform in memory, [channels, samples]; raises ``MediaError`` for samples that are no finite numbers."""
        num_bad = int(waveform.size - np.count_nonzero(np.isfinite(waveform)))
        _check_samples(waveform.size, num_bad, name, has_video=False)
        num_channels, num_samples = waveform.shape
        return cls(name, num_channels, num_samples, rate, np.asarray(waveform, dtype=np.float32))

    def span(self, first: int, last: int, name: str) -> SoundTrack:
        """The samples from ``first`` to ``last`` (excluded) as a track."""
        return replace(self, name=name, num_samples=last - first, offset=self.offset + first)

    def cut(self, spans: Sequence[tuple[int, int]]) -> list[np.ndarray]:
        """Return float32 [channels, last - first] of each span (first, last + 1); zeros outside the track.

        Raises ``MediaError`` where the file gives less than when it was opened.
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
        assert self.media is not None, "a track is held or can be decoded"
        return self.media


def open_track(source: Source, held_bytes: int = HELD_BYTES) -> SoundTrack:
    """Decode the first sound track once, and hold its samples where they take no more than ``held_bytes``.

    Raises ``NoAudioTrackError`` where the file is readable and has none, ``MediaError`` where the file or its track
    cannot be read, holds no sample, or holds values that are no numbers.
    """
    media = as_media(source)
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
            f"{media.name} has a sound track ({decoding.codec}) that gives no sample: it is empty or damaged. "
            + without_audio("Give a file with sound", decoding.has_video)
        )
    if len(channels) > 1:
        raise MediaError(
            f"{media.name} changes its number of channels on the way. Convert it: ffmpeg -i FILE -ac 2 out.wav"
        )
    if decoding.num_refused:
        logger.warning("%s: %d pieces of the sound track are damaged and left out.", media.name, decoding.num_refused)
    _check_samples(num_values, num_bad, media.name, decoding.has_video)
    held = np.concatenate(blocks, axis=1) if blocks else None
    return SoundTrack(media.name, channels.pop(), num_samples, decoding.rate, held, media, decoding.has_video)


def read_waveform(source: Source) -> tuple[np.ndarray, int]:
    """Return (float32 [channels, samples], native rate in Hz) of the first sound track; raises as ``open_track``."""
    track = open_track(source, held_bytes=sys.maxsize)
    assert track.samples is not None
    return track.samples, track.rate


def without_audio(remedy: str, has_video: bool) -> str:
    """A remedy as a sentence; where there is something to see, sound can also be left out."""
    return f"{remedy}, or ask without audio (--no-audio)." if has_video else f"{remedy}."


def _check_samples(num_values: int, num_bad: int, name: str, has_video: bool) -> None:
    if num_bad:
        raise MediaError(
            f"{name}: {num_bad} of {num_values} sound samples are not finite numbers (NaN or infinity). "
            + without_audio("Write the file again from a sound source", has_video)
        )


def audio_stream(container: InputContainer, name: str) -> AudioStream:
    """Return the main sound track, the others left unread. Raises ``NoAudioTrackError`` or ``MediaError``."""
    from av.stream import Discard

    best = container.streams.best("audio")
    streams = [stream for stream in container.streams.audio if best is None or stream.index == best.index]
    if not streams:
        raise NoAudioTrackError(
            f"{name} has no audio stream. Ask without audio (--no-audio) or give a file with sound."
        )
    stream = streams[0]
    if getattr(stream, "codec_context", None) is None or not stream.codec_context.sample_rate:
        raise MediaError(
            f"{name} has a sound track of a kind that cannot be decoded. "
            + without_audio("Convert it: ffmpeg -i FILE -c:a aac out.mp4", has_video_stream(container))
        )
    for other in container.streams:
        if other.index != stream.index:
            other.discard = Discard.all
    return stream


class _Decoding:
    """The blocks [channels, samples] of a file's track, decoded in order; what else is known of it once they are out.

    ``num_refused`` counts the packets that the decoder refused.
    """

    def __init__(self, media: MediaFile) -> None:
        self.media = media
        self.codec = ""
        self.rate = 0
        self.num_refused = 0
        self.has_video = False

    def __iter__(self) -> Iterator[np.ndarray]:
        import av

        with self.media.open() as container:
            stream = audio_stream(container, self.media.name)
            self.codec, self.has_video = stream.codec_context.name, has_video_stream(container)
            is_lossy = not self.codec.startswith("pcm_")
            try:
                for packet in container.demux(stream):
                    for frame in self._frames(stream, packet):
                        yield _samples(frame, is_lossy)
            except (av.error.FFmpegError, OSError):
                self.num_refused += 1  # the file ends in the middle
            self.rate = stream.codec_context.sample_rate

    def _frames(self, stream: AudioStream, packet: Packet[AudioStream]) -> list[AudioFrame]:
        import av

        try:
            return [frame for frame in stream.codec_context.decode(packet) if frame.samples]
        except av.error.InvalidDataError:
            self.num_refused += 1
            return []


def _samples(frame: AudioFrame, is_lossy: bool) -> np.ndarray:
    """Return float32 [channels, samples] of one decoded frame, integers scaled to -1..1.

    Lossy codecs (AAC, MP3, ...) decode to floats; those are rounded to 16 bits and clipped, as the reference's sound
    was when its mels were measured: in quiet bins the rounding shows (up to 0.9 in log-mel).
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
