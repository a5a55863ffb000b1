"""The plugin that vLLM calls in each of its processes (entry point ``vllm.general_plugins``)."""

from __future__ import annotations

from video_llama.checkpoints import auto

BACKEND = "vllm.model_executor.models.transformers:TransformersMultiModalForCausalLM"
"""vLLM's class that runs multimodal models of transformers."""


def register() -> None:
    """Register Video-LLaMA with vLLM's models; importing this module registers it with transformers' Auto classes.

    vLLM finds a model of transformers by the name in ``config.json``. Ours is not part of transformers, so vLLM's
    registry gets the name. It was not run with vLLM. Does nothing where vLLM is not installed.
    """
    try:
        from vllm import ModelRegistry
    except ImportError:
        return
    ModelRegistry.register_model(auto.VideoLlamaForConditionalGeneration.__name__, BACKEND)
