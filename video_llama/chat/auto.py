"""Kept for ``import video_llama.chat.auto``, which was documented; use ``video_llama.checkpoints.auto``."""

from video_llama.checkpoints.auto import VideoLlamaConfig, VideoLlamaForConditionalGeneration, VideoLlamaProcessor

__all__ = ["VideoLlamaConfig", "VideoLlamaForConditionalGeneration", "VideoLlamaProcessor"]
