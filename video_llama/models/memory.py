"""Predict the memory that a model needs from its configuration: weights, key-value cache and activations.

Weights and cache are exact. The activations are those of the largest stage: for each stage, the tensors that exist at
the same time at its widest point (the second linear layer of a block) in inference. Scratch memory of kernels is not
included. ``tests/models/test_memory.py`` compares the prediction with the memory of a process.
"""

# D hidden size, H intermediate size

from __future__ import annotations

import copy
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from video_llama.models.configuration import ImageBindTowerConfig, VideoLlamaConfig
from video_llama.models.cpu import processor
from video_llama.models.packed_linear import INT8_DEQUANTIZE_FROM
from video_llama.models.placement import MODEL_PARTS, Placing, empty_model, part_of

REFERENCE_CONTEXT = 2000
"""Number of tokens of prompt and answer in the reference (``max_length``)."""

PUBLISHED_DECODERS: dict[str, dict[str, int]] = {
    "7b": {},
    "13b": {"hidden_size": 5120, "intermediate_size": 13824, "num_hidden_layers": 40, "num_attention_heads": 40},
}
"""Size -> values of the decoder that differ from the configuration's defaults."""


def published_config(size: str) -> VideoLlamaConfig:
    """Return the configuration with LLaMA-2 of size "7b" or "13b". Raises ValueError for any other size."""
    if size not in PUBLISHED_DECODERS:
        raise ValueError(f"size is {size!r}. Choose {' or '.join(PUBLISHED_DECODERS)}.")
    text = {**PUBLISHED_DECODERS[size], "max_position_embeddings": 4096, "dtype": "bfloat16"}
    return VideoLlamaConfig(text_config=text, dtype="bfloat16")


@dataclass(frozen=True)
class MemoryPrediction:
    """Predicted memory in bytes: ``weights`` by part, key-value ``cache``, ``activations`` of the largest stage."""

    weights: dict[str, int]
    cache: int
    activations: int

    @property
    def total(self) -> int:
        """Memory of a process with the model minus that of a process without one."""
        return sum(self.weights.values()) + self.cache + self.activations

    def as_dict(self) -> dict[str, Any]:
        """Return the fields and ``total``, for JSON."""
        return {**asdict(self), "total": self.total}


def predict_memory(
    config: VideoLlamaConfig,
    placing: Placing,
    *,
    num_frames: int,
    num_clips: int = 0,
    num_tokens: int | None = None,
) -> MemoryPrediction:
    """Predict the memory for one answer about one video.

    Args:
        config: configuration of the model.
        placing: data types and quantization.
        num_frames: number of frames of the video.
        num_clips: number of audio clips; 0 is a model without the audio branch.
        num_tokens: length of prompt and answer, all counted as prompt, which needs more memory. None is the reference's
            2000, or the model's context length if that is less.

    Raises:
        ValueError: a number of frames or tokens that is less than 1 or more than the model supports.
    """
    text = config.text_config
    num_tokens = min(REFERENCE_CONTEXT, text.max_position_embeddings) if num_tokens is None else num_tokens
    for name, count, limit in (
        ("num_frames", num_frames, config.max_frame_pos),
        ("num_tokens", num_tokens, text.max_position_embeddings),
    ):
        if not 1 <= count <= limit:
            raise ValueError(f"{name} is {count}. This model supports 1 to {limit}.")
    config = copy.deepcopy(config)
    config.with_audio_branch = config.with_audio_branch and num_clips > 0
    head_size = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    item = placing.dtypes["decoder"].itemsize
    cache = 2 * text.num_hidden_layers * text.num_key_value_heads * head_size * num_tokens * item
    stages = [
        _vision_bytes(config, placing, num_frames),
        _query_bytes(config, placing, num_frames),
        _audio_bytes(config.imagebind_audio_config, placing, num_clips),
        _prefill_bytes(config, placing, num_tokens),
    ]
    return MemoryPrediction(_weights(config, placing), cache, max(stages))


def _weights(config: VideoLlamaConfig, placing: Placing) -> dict[str, int]:
    model = empty_model(config, placing)
    tensors: list[tuple[str, Tensor]] = [*model.named_parameters(), *model.named_buffers()]
    sizes = dict.fromkeys(MODEL_PARTS, 0)
    for name, tensor in tensors:
        sizes[part_of(name)] += tensor.numel() * tensor.element_size()
    return {part: size for part, size in sizes.items() if size}


def _vision_bytes(config: VideoLlamaConfig, placing: Placing, num_frames: int) -> int:
    """Return the size, per patch, of residual and norm (D each) and the MLP before and after activation (H each)."""
    vision = config.vision_config
    size: int = vision.image_size  # type: ignore[assignment]  # a single number in this model
    pixels = num_frames * 3 * size**2 * torch.float32.itemsize
    width = 2 * vision.hidden_size + 2 * vision.intermediate_size
    return int(_num_patches(config, num_frames) * width * placing.dtypes["vision"].itemsize + pixels)


def _query_bytes(config: VideoLlamaConfig, placing: Placing, num_frames: int) -> int:
    """Return the size of the ViT's output in both data types, and the keys and values of one cross-attention."""
    vision, queries = config.vision_config, config.qformer_config
    item = placing.dtypes["qformer"].itemsize
    width = vision.hidden_size * (placing.dtypes["vision"].itemsize + item) + 2 * queries.hidden_size * item
    return int(_num_patches(config, num_frames) * width)


def _num_patches(config: VideoLlamaConfig, num_frames: int) -> int:
    """Return the number of patches, including a class token per frame."""
    size: Any = config.vision_config.image_size
    patch: Any = config.vision_config.patch_size
    return int(num_frames * ((size // patch) ** 2 + 1))


def _audio_bytes(config: ImageBindTowerConfig, placing: Placing, num_clips: int) -> int:
    tokens = num_clips * (config.num_patches + 1)
    return tokens * (2 * config.hidden_size + 2 * config.intermediate_size) * placing.dtypes["audio"].itemsize


def _prefill_bytes(config: VideoLlamaConfig, placing: Placing, num_tokens: int) -> int:
    """Return the size, per token, of embedding, residual and norm (D each), gate, up and their product (H each).

    Without FBGEMM, one int8 matrix is also converted to the decoder's data type.
    """
    text, item = config.text_config, placing.dtypes["decoder"].itemsize
    width = 3 * text.hidden_size + 3 * text.intermediate_size
    has_kernel = placing.device.type == "cpu" and processor().has_fbgemm
    is_dequantized = placing.quantization == "int8" and num_tokens >= INT8_DEQUANTIZE_FROM and not has_kernel
    matrix = text.hidden_size * text.intermediate_size * item if is_dequantized else 0
    return int(num_tokens * width * item + matrix)
