"""The models of the GPU benchmark, with random numbers, made directly on the device."""

from __future__ import annotations

from typing import Any

import torch
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from video_llama.models.configuration import VideoLlamaConfig
from video_llama.models.memory import published_config
from video_llama.models.placement import LoadOptions, empty_model, resolve_placing
from video_llama.models.video_llama import VideoLlamaForConditionalGeneration

TINY: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
}
IMAGE_SIZE, MEL_SIZE = 28, (16, 26)


def tiny_config() -> VideoLlamaConfig:
    """Return a configuration with every part, for a check of this benchmark on a CPU."""
    tower = {"hidden_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2, "embedding_size": 16}
    audio = {**tower, "input_size": MEL_SIZE, "kernel_size": (8, 8), "stride": (4, 6)}
    return VideoLlamaConfig(
        vision_config={**TINY, "image_size": IMAGE_SIZE, "patch_size": 14},
        qformer_config={**TINY, "vocab_size": 1},
        imagebind_vision_config={**tower, "input_size": (IMAGE_SIZE, IMAGE_SIZE)},
        imagebind_audio_config=audio,
        text_config={**TINY, "vocab_size": 1000, "max_position_embeddings": 2048},
        video_token_id=1000,
        audio_token_id=1001,
    )


def random_model(
    size: str, device: torch.device, dtype: torch.dtype, quantization: str | None = None, **config: Any
) -> VideoLlamaForConditionalGeneration:
    """Return a model of size "7b", "13b" or "tiny" in evaluation mode; ``config`` changes attributes of its config."""
    settings = tiny_config() if size == "tiny" else published_config(size)
    for name, value in config.items():
        setattr(settings, name, value)
    placing = resolve_placing(dtype, LoadOptions(device=device, dtype=dtype, quantization=quantization))
    model = empty_model(settings, placing).to_empty(device=device)
    model.requires_grad_(False)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.is_floating_point():
                parameter.normal_(std=0.02) if parameter.dim() > 1 else parameter.fill_(1.0)
        for buffer in model.buffers():
            buffer.zero_()
    model.model.language_model.rotary_emb = LlamaRotaryEmbedding(settings.text_config).to(device)
    return model


def decoder_bytes(model: VideoLlamaForConditionalGeneration) -> int:
    """Return the bytes of weights that one decoding step reads: the layers and the head, not the embedding table."""
    parts = (model.model.language_model.layers, model.lm_head)
    return sum(
        tensor.numel() * tensor.element_size() for part in parts for tensor in [*part.parameters(), *part.buffers()]
    )


def cache_bytes(model: VideoLlamaForConditionalGeneration, batch: int, length: int) -> int:
    """Return the bytes of keys and values of ``batch`` rows of ``length`` tokens."""
    text = model.config.text_config
    head_size = text.hidden_size // text.num_attention_heads
    item = model.dtype.itemsize
    return int(2 * text.num_hidden_layers * text.num_key_value_heads * head_size * item * batch * length)
