"""Front ends of frames and sound with the attributes that transformers and vLLM read from a processor's parts.

They are plain objects: transformers' video and image processors require torchvision.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from transformers import BatchFeature

from video_llama.processors.audio_processor import AudioProcessor
from video_llama.processors.decoded_media import is_picture, read_frames, read_picture, waveform_of
from video_llama.processors.nested_inputs import given_audio, given_images, given_videos
from video_llama.processors.settings import ProcessorSettings
from video_llama.processors.video_processor import VideoProcessor


class FramesProcessor:
    """Resize and normalize pictures or videos in memory; the result has the name ``input_name``."""

    do_sample_frames = False
    temporal_patch_size = 1

    def __init__(self, settings: ProcessorSettings, input_name: str) -> None:
        self._processor = VideoProcessor.from_settings(settings)
        self.model_input_names = [input_name]
        self.size = {"height": settings.image_size, "width": settings.image_size}
        self.image_mean, self.image_std = list(settings.image_mean), list(settings.image_std)
        self.num_frames = settings.num_frames

    @property
    def frame_size(self) -> tuple[int, int]:
        """Height and width of a frame, in pixels."""
        return self.size["height"], self.size["width"]

    def normalized(self, frames: np.ndarray) -> np.ndarray:
        """Map uint8 RGB [T, 3, H, W] to normalized float32."""
        return self._processor(frames)

    def __call__(self, media: Any, **kwargs: Any) -> BatchFeature:
        """Return normalized pictures [N, 3, H, W], or videos [N, T, 3, H, W] with all their frames."""
        if self.model_input_names == ["pixel_values"]:
            items = [
                self.normalized(read_picture(each, self.frame_size).frames)[0] for each in given_images(media).items
            ]
        else:
            items = [self._video(each) for each in given_videos(media).items]
        return BatchFeature({self.model_input_names[0]: torch.from_numpy(np.stack(items))})

    def _video(self, video: Any) -> np.ndarray:
        frames = [video] if is_picture(video) else video
        return self.normalized(read_frames(frames, self.frame_size, None, len(frames)).frames)


class SoundProcessor:
    """Cut waveforms into clips and compute their mels; see ``AudioProcessor``."""

    def __init__(self, settings: ProcessorSettings) -> None:
        self.processor = AudioProcessor(settings)
        self.sampling_rate = settings.sampling_rate
        self.model_input_names = ["input_features"]
        self.feature_size = settings.num_mel_bins
        self.chunk_length = settings.clip_seconds

    def __call__(self, audio: Any, sampling_rate: float | None = None, **kwargs: Any) -> BatchFeature:
        """Return mels [N, S, 1, mel bins, time steps] of waveforms at ``sampling_rate`` (default: the model's)."""
        rate = sampling_rate or self.sampling_rate
        mels = [self.processor(*waveform_of(each, rate)).mel for each in given_audio(audio).items]
        return BatchFeature({"input_features": torch.from_numpy(np.stack(mels))})
