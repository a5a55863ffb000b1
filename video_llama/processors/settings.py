"""The scalars of ``processor_config.json``, and the processors that they make."""

from __future__ import annotations

from dataclasses import dataclass

from video_llama.processors.audio_processor import AudioProcessor
from video_llama.processors.video_processor import IMAGE_MEAN, IMAGE_STD, VideoProcessor


@dataclass(frozen=True)
class ProcessorSettings:
    """The scalars of ``processor_config.json``: how files become what the model reads. Defaults are the reference's."""

    image_size: int = 224
    """Height and width of a frame, pixels."""
    image_mean: tuple[float, float, float] = IMAGE_MEAN
    image_std: tuple[float, float, float] = IMAGE_STD
    num_frames: int = 8
    """Frames of a video, unless the caller asks for others."""
    sampling_rate: int = 16000
    """Of the sound that is heard, Hz."""
    num_mel_bins: int = 128
    target_length: int = 204
    """Frames of a mel clip, 10 ms each."""
    clip_seconds: float = 2.0
    num_clips: int = 8
    audio_mean: float = -4.268
    """Of the log-mels; they are normalised to (x - audio_mean) / audio_std."""
    audio_std: float = 9.138
    pad_token: str | None = None
    """None pads with the unknown token; "[PAD]" is an id of its own."""

    def video_processor(self) -> VideoProcessor:
        """What normalises frames for this model."""
        return VideoProcessor((self.image_size, self.image_size), self.image_mean, self.image_std)

    def audio_processor(self) -> AudioProcessor:
        """What cuts sound into this model's mel clips."""
        return AudioProcessor(
            self.sampling_rate,
            self.num_mel_bins,
            self.target_length,
            self.clip_seconds,
            self.num_clips,
            self.audio_mean,
            self.audio_std,
        )
