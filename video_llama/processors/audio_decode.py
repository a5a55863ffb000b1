"""Sound from a file: the track's samples as they are, at the rate of the file.

In: an audio file, or a video with a sound track. Out: float32 [channels, samples] in about -1..1, and the rate in Hz.
Three things are kept apart: no track (``NoAudioTrackError``), a track that cannot be used (``MediaError``), sound.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from video_llama.errors import MediaError, NoAudioTrackError
from video_llama.log import logger
from video_llama.processors.sources import Source, as_media

if TYPE_CHECKING:
    from av import AudioFrame, AudioStream
    from av.container import InputContainer

PCM16_SCALE = 32768.0
# Whole scale of the integer sample formats; unsigned 8 bit is centred on 128.
INTEGER_SCALE = {"u8": 128.0, "s16": PCM16_SCALE, "s32": 2147483648.0, "s64": 9223372036854775808.0}


def read_waveform(source: Source) -> tuple[np.ndarray, int]:
    """Return (float32 [channels, samples], native rate in Hz) of the first sound track.

    Raises ``NoAudioTrackError`` where the file is readable and has none, ``MediaError`` where the file or its track
    cannot be read, holds no sample, or holds values that are no numbers.
    """
    media = as_media(source)
    with media.open() as container:
        stream = audio_stream(container, media.name)
        blocks, num_refused = _decode(container, stream)
        rate = stream.codec_context.sample_rate
    if not blocks:
        raise MediaError(
            f"{media.name} has a sound track ({stream.codec_context.name}) that gives no sample: it is empty or "
            "damaged. Ask without audio (--no-audio) or give a file with sound."
        )
    if len({block.shape[0] for block in blocks}) > 1:
        raise MediaError(
            f"{media.name} changes its number of channels on the way. Convert it: ffmpeg -i FILE -ac 2 out.wav"
        )
    if num_refused:
        logger.warning("%s: %d pieces of the sound track are damaged and left out.", media.name, num_refused)
    waveform = np.concatenate(blocks, axis=1)
    check_samples(waveform, media.name)
    return waveform, rate


def check_samples(waveform: np.ndarray, name: str) -> None:
    """Raise ``MediaError`` if any sample is NaN or infinite."""
    bad = int(waveform.size - np.count_nonzero(np.isfinite(waveform)))
    if bad:
        raise MediaError(
            f"{name}: {bad} of {waveform.size} sound samples are not finite numbers (NaN or infinity). "
            "Write the file again from a sound source, or ask without audio (--no-audio)."
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
            f"{name} has a sound track of a kind that cannot be decoded. Convert it: ffmpeg -i FILE -c:a aac out.mp4, "
            "or ask without audio (--no-audio)."
        )
    for other in container.streams:
        if other.index != stream.index:
            other.discard = Discard.all
    return stream


def _decode(container: InputContainer, stream: AudioStream) -> tuple[list[np.ndarray], int]:
    """Decode all packets; return the blocks [channels, samples] and how many packets the decoder refused."""
    import av

    blocks: list[np.ndarray] = []
    num_refused = 0
    is_lossy = not stream.codec_context.name.startswith("pcm_")
    try:
        for packet in container.demux(stream):
            try:
                blocks += [_samples(frame, is_lossy) for frame in stream.codec_context.decode(packet) if frame.samples]
            except av.error.InvalidDataError:
                num_refused += 1
    except (av.error.FFmpegError, OSError):
        num_refused += 1  # the file ends in the middle
    return blocks, num_refused


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
