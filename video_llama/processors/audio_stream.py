"""The sound track of an open container: which stream it is, its samples as floats, and checks of their values."""

from __future__ import annotations

import numpy as np
from av import AudioFrame, AudioResampler, AudioStream
from av.container import InputContainer
from av.stream import Discard

from video_llama.errors import MediaError, NoAudioTrackError
from video_llama.processors.media_file import has_video_stream, main_video_stream

MIN_RATE, MAX_RATE = 1_000, 768_000  # Hz; headers of damaged files give other rates
MAX_AMPLITUDE = 1e6  # full scale is 1; squares of values above 1e16 overflow float32
PCM16_SCALE = 32768.0
# Whole scale of the integer sample formats; unsigned 8 bit is centred on 128.
INTEGER_SCALE = {"u8": 128.0, "s16": PCM16_SCALE, "s32": 2147483648.0}


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


class SampleCheck:
    """Count the samples of a track that are not valid."""

    def __init__(self) -> None:
        self.num_values = self.num_not_finite = 0
        self.peak = 0.0

    def add(self, block: np.ndarray) -> None:
        """Count the samples of a block."""
        is_finite = np.isfinite(block)
        self.num_values += block.size
        self.num_not_finite += block.size - int(np.count_nonzero(is_finite))
        if block.size:
            self.peak = max(self.peak, float(np.abs(np.where(is_finite, block, 0)).max()))

    def raise_if_bad(self, name: str, has_video: bool) -> None:
        """Raise MediaError if samples are not finite, or far above full scale."""
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


def samples_of(frame: AudioFrame, is_lossy: bool) -> np.ndarray:
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
