"""Register config, model and processor with transformers' Auto classes, which can then load a model folder."""

from transformers import AutoProcessor

from video_llama.models.configuration import VideoLlamaConfig
from video_llama.models.video_llama import VideoLlamaForConditionalGeneration, VideoLlamaModel
from video_llama.processors.processing import VideoLlamaProcessor

AutoProcessor.register(VideoLlamaConfig, VideoLlamaProcessor, exist_ok=True)  # type: ignore[no-untyped-call]

__all__ = ["VideoLlamaConfig", "VideoLlamaForConditionalGeneration", "VideoLlamaModel", "VideoLlamaProcessor"]
