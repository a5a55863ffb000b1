"""Importing this lets transformers' Auto classes read a model folder: config, model and processor."""

from transformers import AutoProcessor

from video_llama.models.configuration import VideoLlamaConfig
from video_llama.models.video_llama import VideoLlamaForConditionalGeneration
from video_llama.processors.processing import VideoLlamaProcessor

AutoProcessor.register(VideoLlamaConfig, VideoLlamaProcessor, exist_ok=True)  # type: ignore[no-untyped-call]

__all__ = ["VideoLlamaConfig", "VideoLlamaForConditionalGeneration", "VideoLlamaProcessor"]
