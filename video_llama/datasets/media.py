"""Read media files into model inputs: normalized frames or mel clips."""

# T frames, S clips, H and W pixels, K query tokens per frame, E embedding width

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Literal, Protocol

import torch

from video_llama.datasets.config import DatasetConfig, FrameSettings
from video_llama.datasets.sample import Sample, SampleKind, SampleMedium, source_of
from video_llama.errors import MediaError
from video_llama.processors.audio_processor import AudioProcessor
from video_llama.processors.augmentation import augment
from video_llama.processors.sampling import FrameSampling
from video_llama.processors.video_processor import SampledVideo, VideoProcessor, read_image, read_video

MediaForm = Literal[
    "pixel_values_videos", "audio_pixel_values", "input_features", "frame_tokens", "clip_embeddings", "sound_embeddings"
]
"""The argument of the model that receives the media. ``sound_embeddings`` (ImageBind embeddings of sound) are passed as
``clip_embeddings`` (ImageBind embeddings of frames, a substitute for sound) but without added noise."""

Readable = Sample | SampleMedium
"""A medium, or a sample, of which only the first medium is read."""


class SampleReader(Protocol):
    """Reads the media of a data set, from files or from a feature store."""

    @property
    def form(self) -> MediaForm: ...

    def read(self, sample: Readable, seed: int) -> tuple[torch.Tensor, str]:
        """Return the medium and the sentence about its frame times, or "". ``seed`` is for augmentation."""
        ...


class FileReader(SampleReader, Protocol):
    """A reader of files whose results can be cached under a key."""

    def key(self, sample: Readable, sha256: str) -> str:
        """Return a key for the result of :meth:`read`, from the content of the file and the sampling settings."""
        ...


@dataclass(frozen=True)
class FrameReader:
    """Reads frames [T, 3, H, W] float32, as for inference or, if the settings require it, augmented."""

    settings: FrameSettings
    processor: VideoProcessor
    max_frames: int
    is_webvid: bool
    form: MediaForm

    def read(self, sample: Readable, seed: int) -> tuple[torch.Tensor, str]:
        """Return the frames and the sentence about their times. Raises MediaError, with the annotation, on failure."""
        try:
            video = self._frames(sample, seed)
        except MediaError as error:
            raise MediaError(f"{sample.id}: {error}") from error
        frames = video.frames
        if self.settings.is_augmented:
            generator = torch.Generator().manual_seed(seed)
            frames = augment(frames, self.processor.size, self.processor.crop_scale, generator)
        return torch.from_numpy(self.processor(frames)), video.message

    def _frames(self, sample: Readable, seed: int) -> SampledVideo:
        source = source_of(sample.path)
        if sample.kind == "image":
            return read_image(source, size=self.processor.size)
        draws = self.is_webvid and self.settings.is_augmented
        sampling = FrameSampling(
            num_frames=self.settings.n_frms, rule="headtail" if draws else "uniform", seed=seed if draws else None
        )
        return read_video(source, size=self.processor.size, sampling=sampling, max_frames=self.max_frames)

    def key(self, sample: Readable, sha256: str) -> str:
        """Return the cache key of the frames of a file with this SHA-256."""
        return _key(sha256, sample.kind, 1 if sample.kind == "image" else self.settings.n_frms)


@dataclass(frozen=True)
class SoundReader:
    """Reads mel clips [S, 1, mel bins, frames] float32 of an audio file or of a video's sound, as for inference."""

    processor: AudioProcessor
    form: MediaForm = "input_features"

    def read(self, sample: Readable, seed: int) -> tuple[torch.Tensor, str]:
        """Return the mel clips and "". Raises MediaError, with the annotation, for a file without readable sound."""
        try:
            clips = self.processor.read(source_of(sample.path))
        except MediaError as error:
            raise MediaError(f"{sample.id}: {error}") from error
        return torch.from_numpy(clips.mel), ""

    def key(self, sample: Readable, sha256: str) -> str:
        """Return the cache key of the clips of a file with this SHA-256."""
        return _key(sha256, "audio", self.processor.settings.num_clips)


def _key(sha256: str, kind: SampleKind, count: int) -> str:
    return hashlib.sha256(f"{sha256} {kind} {count}".encode()).hexdigest()[:32]


def frame_reader(
    config: DatasetConfig, format_name: str, processor: VideoProcessor, max_frames: int, form: MediaForm
) -> FrameReader:
    """Return the frame reader of a data set. For WebVid, augmentation samples frames from each half of the video."""
    return FrameReader(config.vis_processor.train, processor, max_frames, format_name == "webvid", form)
