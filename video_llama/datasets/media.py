"""A medium's file becomes what the model reads: normalised frames, or features that were computed once."""

# T frames, H and W pixels, K query tokens per frame, E embedding width

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol

from video_llama.datasets.annotations import Sample
from video_llama.datasets.config import DatasetConfig, FrameSettings
from video_llama.errors import MediaError
from video_llama.processors import FrameSampling, SampledVideo, VideoProcessor, read_image, read_video

if TYPE_CHECKING:
    import torch

MediaForm = Literal["pixel_values_videos", "audio_pixel_values", "frame_tokens", "clip_embeddings"]
"""The model's argument that a batch's media go into."""


class MediaSource(Protocol):
    """What a data set reads its media from: the frames' files, or a store of features."""

    @property
    def form(self) -> MediaForm: ...

    def read(self, sample: Sample, seed: int) -> tuple[torch.Tensor, str]:
        """The medium and the sentence about its frames' times ("" for a picture). ``seed`` decides what is random."""
        ...


@dataclass(frozen=True)
class FrameReader:
    """Reads frames [T, 3, H, W] float32, as serving does or, where the settings say so, augmented."""

    settings: FrameSettings
    processor: VideoProcessor
    max_frames: int
    is_webvid: bool
    form: MediaForm

    def read(self, sample: Sample, seed: int) -> tuple[torch.Tensor, str]:
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

    def _frames(self, sample: Sample, seed: int) -> SampledVideo:
        if sample.kind == "image":
            return read_image(sample.path, size=self.processor.size)
        draws = self.is_webvid and self.settings.is_augmented
        sampling = FrameSampling(
            num_frames=self.settings.n_frms, rule="headtail" if draws else "uniform", seed=seed if draws else None
        )
        return read_video(sample.path, size=self.processor.size, sampling=sampling, max_frames=self.max_frames)

    def key(self, sample: Sample) -> str:
        """Names the frames that are read from a file as it is now: its path, size and time, and the sampling."""
        try:
            status = sample.path.stat()
        except OSError as error:
            raise MediaError(f"{sample.id}: {sample.path} cannot be read: {error.strerror}.") from error
        parts = (Path(sample.path).resolve(), status.st_size, status.st_mtime_ns, sample.kind, self.settings.n_frms)
        return hashlib.sha256(repr(parts).encode()).hexdigest()[:32]


def frame_reader(
    config: DatasetConfig, format_name: str, processor: VideoProcessor, max_frames: int, form: MediaForm
) -> FrameReader:
    """The reader of one data set's frames; WebVid's are drawn from each half when augmenting, as in the reference."""
    return FrameReader(config.vis_processor.train, processor, max_frames, format_name == "webvid", form)
