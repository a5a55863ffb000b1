"""The options of a processor's call: which frames are read, sound, addresses, and what is refused."""

# transformers reads the classes in the annotations, so they are not postponed.
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from transformers.processing_utils import ProcessingKwargs, VideosKwargs

from video_llama.processors.sampling import FrameSampling
from video_llama.processors.settings import ProcessorSettings

FIXED = {
    "do_resize": True,
    "do_rescale": True,
    "do_normalize": True,
    "do_center_crop": False,
    "do_convert_rgb": True,
}
"""Steps of transformers' image processors that cannot be switched, and their values here."""
REFUSED = ("size", "resample", "rescale_factor", "image_mean", "image_std", "crop_size")
"""Options of transformers' image processors whose values are those of ``processor_config.json``."""


class VideoLlamaVideosKwargs(VideosKwargs, total=False):
    """Options of videos, beside transformers' ``num_frames``, ``fps``, ``do_sample_frames`` and ``video_metadata``."""

    frames: Any
    """A ``FrameSampling``: segment, times, rule. It has priority over ``num_frames`` and ``fps``."""
    allow_urls: bool
    """Download media from http and https addresses."""


class VideoLlamaProcessorKwargs(ProcessingKwargs, total=False):
    """Options of ``VideoLlamaProcessor``."""

    videos_kwargs: VideoLlamaVideosKwargs  # type: ignore[misc]
    _defaults = {"text_kwargs": {"padding": True, "return_tensors": "pt"}}  # type: ignore[misc]


@dataclass(frozen=True)
class ReadingOptions:
    """How media are read."""

    frames: FrameSampling | None = None
    num_frames: int | None = None
    fps: float | None = None
    do_sample_frames: bool | None = None
    """For videos in memory: False keeps all frames. Files are always sampled."""
    metadata: Sequence[Any] = ()
    sampling_rate: float | None = None
    """Rate of sounds in memory, in Hz."""
    allow_urls: bool = False
    no_audio: bool = False

    @classmethod
    def of(cls, merged: Mapping[str, Mapping[str, Any]], *, no_audio: bool = False) -> "ReadingOptions":
        """Return the options in transformers' merged arguments. Raises ValueError for unsupported options."""
        videos, images, audio = merged["videos_kwargs"], merged["images_kwargs"], merged["audio_kwargs"]
        for given in (videos, images):
            for name, value in given.items():
                if value is not None and (name in REFUSED or value != FIXED.get(name, value)):
                    raise ValueError(
                        f"{name}={value!r} is not supported: the model reads media as processor_config.json says. "
                        f"Remove {name}."
                    )
        metadata = videos.get("video_metadata") or ()
        return cls(
            frames=videos.get("frames"),
            num_frames=videos.get("num_frames"),
            fps=videos.get("fps"),
            do_sample_frames=videos.get("do_sample_frames"),
            metadata=[metadata] if isinstance(metadata, Mapping) else _flat(metadata),
            sampling_rate=audio.get("sampling_rate"),
            allow_urls=bool(videos.get("allow_urls")),
            no_audio=no_audio,
        )

    def sampling(self, settings: ProcessorSettings) -> FrameSampling:
        """Return which frames of a file are read."""
        if self.frames is not None:
            return self.frames
        return FrameSampling(num_frames=self.num_frames or settings.num_frames, fps=self.fps)

    def sampling_of_frames(self, settings: ProcessorSettings) -> FrameSampling | None:
        """Return which frames of a decoded video are read; None is all of them."""
        return None if self.do_sample_frames is False else self.sampling(settings)

    def metadata_of(self, index: int) -> Mapping[str, Any] | None:
        """Return fps and frame numbers of the video with this index, if they were given."""
        if index >= len(self.metadata):
            return None
        given = self.metadata[index]
        return given if isinstance(given, Mapping) else vars(given)

    def rate_of(self, settings: ProcessorSettings) -> float:
        """Return the sampling rate of sounds in memory, in Hz."""
        return self.sampling_rate or settings.sampling_rate


def _flat(values: Sequence[Any]) -> list[Any]:
    return [each for value in values for each in (value if isinstance(value, (list, tuple)) else [value])]


def option_names() -> set[str]:
    """Return the names of all options of the processor's call."""
    annotations = VideoLlamaProcessorKwargs.__annotations__
    nested = [kind.__annotations__ for kind in annotations.values() if hasattr(kind, "__annotations__")]
    return {*annotations, "common_kwargs", *(name for each in nested for name in each)}
