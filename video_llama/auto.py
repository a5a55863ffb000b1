"""Register Video-LLaMA with transformers' Auto classes: ``import video_llama.auto``.

Then ``AutoConfig``, ``AutoModel`` (without the vocabulary head), ``AutoModelForImageTextToText``,
``AutoModelForMultimodalLM`` and ``AutoProcessor`` load a model folder. A model folder contains no code, and ``import
video_llama`` alone does not load transformers, so the registration is an import of its own.
"""

from video_llama.checkpoints.auto import (
    VideoLlamaConfig,
    VideoLlamaForConditionalGeneration,
    VideoLlamaModel,
    VideoLlamaProcessor,
)

__all__ = ["VideoLlamaConfig", "VideoLlamaForConditionalGeneration", "VideoLlamaModel", "VideoLlamaProcessor"]
