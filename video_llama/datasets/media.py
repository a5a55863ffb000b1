"""A medium's file becomes what the model reads: normalised frames, mel clips, or features computed once."""

# T frames, S clips, H and W pixels, K query tokens per frame, E embedding width

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

from video_llama.datasets.config import DatasetConfig, FrameSettings
from video_llama.datasets.sample import Sample, SampleKind, SampleMedium, source_of
from video_llama.errors import MediaError
from video_llama.processors import (
    AudioProcessor,
    FrameSampling,
    SampledVideo,
    VideoProcessor,
    read_image,
    read_video,
)

if TYPE_CHECKING:
    import torch

MediaForm = Literal[
    "pixel_values_videos", "audio_pixel_values", "input_features", "frame_tokens", "clip_embeddings", "sound_embeddings"
]
"""The model's argument that media go into. ``sound_embeddings`` (ImageBind's, of real sound) go where
``clip_embeddings`` (of frames in the place of sound) go, but get no noise."""

Readable = Sample | SampleMedium
"""What a source reads: a medium, or a sample's first one."""


class SampleReader(Protocol):
    """What a data set reads its media from: the frames' files, or a store of features."""

    @property
    def form(self) -> MediaForm: ...

    def read(self, sample: Readable, seed: int) -> tuple[torch.Tensor, str]:
        """The medium and the sentence about its frames' times ("" if there are none). ``seed``: of what is random."""
        ...


class FileReader(SampleReader, Protocol):
    """A source that reads files, and can name what it makes of them."""

    def key(self, sample: Readable, sha256: str) -> str:
        """Names what :meth:`read` makes of a file with these bytes: the bytes, and what is sampled of them."""
        ...


@dataclass(frozen=True)
class FrameReader:
    """Reads frames [T, 3, H, W] float32, as serving does or, where the settings say so, augmented."""

    settings: FrameSettings
    processor: VideoProcessor
    max_frames: int
    is_webvid: bool
    form: MediaForm

    def read(self, sample: Readable, seed: int) -> tuple[torch.Tensor, str]:
        """Raises MediaError, with the annotation's place, for a file that cannot be read."""
        import torch

        try:
            video = self._frames(sample, seed)
        except MediaError as error:
            raise MediaError(f"{sample.id}: {error}") from error
        frames = video.frames
        if self.settings.is_augmented:
            frames = self.processor.augment(frames, torch.Generator().manual_seed(seed))
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
        """Names the frames that are read from these bytes."""
        return _key(sha256, sample.kind, 1 if sample.kind == "image" else self.settings.n_frms)


@dataclass(frozen=True)
class SoundReader:
    """Reads the mel clips [S, 1, mel bins, frames] float32 of a sound file, or of a video's track, as serving does."""

    processor: AudioProcessor
    form: MediaForm = "input_features"

    def read(self, sample: Readable, seed: int) -> tuple[torch.Tensor, str]:
        """Raises MediaError, with the annotation's place, for a file without sound that can be read."""
        import torch

        try:
            clips = self.processor.read(source_of(sample.path))
        except MediaError as error:
            raise MediaError(f"{sample.id}: {error}") from error
        return torch.from_numpy(clips.mel), ""

    def key(self, sample: Readable, sha256: str) -> str:
        """Names the clips that are read from these bytes."""
        return _key(sha256, "audio", self.processor.num_clips)


def _key(sha256: str, kind: SampleKind, count: int) -> str:
    return hashlib.sha256(f"{sha256} {kind} {count}".encode()).hexdigest()[:32]


def frame_reader(
    config: DatasetConfig, format_name: str, processor: VideoProcessor, max_frames: int, form: MediaForm
) -> FrameReader:
    """The reader of one data set's frames; WebVid's are drawn from each half when augmenting, as in the reference."""
    return FrameReader(config.vis_processor.train, processor, max_frames, format_name == "webvid", form)
