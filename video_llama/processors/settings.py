"""The media settings of a model: the scalars of its ``processor_config.json``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

IMAGE_MEAN = (0.48145466, 0.4578275, 0.40821073)
IMAGE_STD = (0.26862954, 0.26130258, 0.27577711)


@dataclass(frozen=True)
class ProcessorSettings:
    """How files become model inputs. The defaults are the reference's. Raises ValueError for values out of range."""

    image_size: int = 224
    """Height and width of a frame, in pixels."""
    image_mean: tuple[float, float, float] = IMAGE_MEAN
    image_std: tuple[float, float, float] = IMAGE_STD
    num_frames: int = 8
    """Number of frames of a video, unless the caller requests another."""
    sampling_rate: int = 16000
    """Sampling rate of the audio, in Hz."""
    num_mel_bins: int = 128
    target_length: int = 204
    """Number of time steps of a mel clip, 10 ms each."""
    clip_seconds: float = 2.0
    """Length of an audio clip, in seconds."""
    num_clips: int = 8
    """Number of audio clips of a track."""
    audio_mean: float = -4.268
    """Log-mel values are normalized to (x - audio_mean) / audio_std."""
    audio_std: float = 9.138
    pad_token: str | None = None
    """The padding token. None pads with the unknown token; "[PAD]" has an id of its own."""

    def __post_init__(self) -> None:
        positive = ("image_size", "num_frames", "sampling_rate", "num_mel_bins", "target_length", "num_clips")
        for name in (*positive, "clip_seconds", "audio_std"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} is {getattr(self, name)}. It must be positive.")
        if not all(value > 0 for value in self.image_std):
            raise ValueError(f"image_std is {list(self.image_std)}. Its values must be positive.")


@dataclass(frozen=True)
class ModelNumbers:
    """Properties of the model that its processor needs; they are in ``config.json`` too."""

    num_video_query_tokens: int = 32
    """Number of tokens of a video or image in the prompt."""
    num_audio_query_tokens: int = 8
    """Number of tokens of a sound in the prompt."""
    max_frame_pos: int = 32
    """Largest number of frames of a video."""
    with_audio_branch: bool = True
    """Whether the model reads sound."""
    prompt_template: str = "default"
    """Name of the prompt format."""

    @classmethod
    def of(cls, config: Any) -> ModelNumbers:
        """Return the numbers of a model's config."""
        return cls(**{name: getattr(config, name) for name in cls.__dataclass_fields__})


IMPORT_FIRST = "Run `import video_llama.auto` first: it registers VideoLlamaProcessor, which reads this folder."
PROCESSOR_CLASS = {
    "processor_class": "VideoLlamaProcessor",
    # AutoProcessor uses the registered class. Without the import it would return a tokenizer; because of this entry it
    # raises an error that begins with the text before "--", the place for the name of a repository.
    "auto_map": {"AutoProcessor": f"{IMPORT_FIRST}--auto.VideoLlamaProcessor"},
}
"""The class that AutoProcessor loads, in ``processor_config.json``."""
