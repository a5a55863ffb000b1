"""How much memory a model will take, from its configuration alone: weights, cache of keys and values, activations.

Weights and cache are counted exactly. Activations are the largest of what the stages hold at once, each from the
tensors that live at its widest point (a block's second linear layers) in inference; kernels' own scratch is not
counted. ``tests/models/test_memory.py`` compares with what a process took.
"""

# n tokens, D width, H width of the block's middle, L prompt length

from __future__ import annotations

import copy
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from video_llama.models.configuration import ImageBindTowerConfig, VideoLlamaConfig
from video_llama.models.packed_linear import INT8_WIDENS_FROM
from video_llama.models.placement import MODEL_PARTS, Placing, empty_model, part_of

REFERENCE_CONTEXT = 2000
"""Tokens of prompt and answer in the reference (its ``max_length``)."""

PUBLISHED_DECODERS: dict[str, dict[str, int]] = {
    "7b": {},
    "13b": {"hidden_size": 5120, "intermediate_size": 13824, "num_hidden_layers": 40, "num_attention_heads": 40},
}
"""Size -> where its decoder differs from the configuration's defaults."""


def published_config(size: str) -> VideoLlamaConfig:
    """The model with LLaMA-2 of this size. Raises ValueError for another."""
    if size not in PUBLISHED_DECODERS:
        raise ValueError(f"size is {size!r}. Choose {' or '.join(PUBLISHED_DECODERS)}.")
    text = {**PUBLISHED_DECODERS[size], "max_position_embeddings": 4096, "dtype": "bfloat16"}
    return VideoLlamaConfig(text_config=text, dtype="bfloat16")


@dataclass(frozen=True)
class MemoryPrediction:
    """Bytes. ``weights`` by part; ``activations`` are those of the widest stage."""

    weights: dict[str, int]
    cache: int
    activations: int

    @property
    def total(self) -> int:
        """What the process takes over what it takes without a model."""
        return sum(self.weights.values()) + self.cache + self.activations

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {**asdict(self), "total": self.total}


def predict_memory(
    config: VideoLlamaConfig,
    placing: Placing,
    *,
    num_frames: int,
    num_clips: int = 0,
    num_tokens: int | None = None,
) -> MemoryPrediction:
    """For one answer about a video of ``num_frames`` with ``num_clips`` of sound; 0 is a model built without hearing.

    ``num_tokens`` is the length of prompt and answer; all of it counts as prompt, the wider case. None is the
    reference's 2000, or the model's context where that is less. Raises ValueError for more frames or tokens than the
    model takes, or less than 1.
    """
    text = config.text_config
    num_tokens = min(REFERENCE_CONTEXT, text.max_position_embeddings) if num_tokens is None else num_tokens
    for name, count, limit in (
        ("num_frames", num_frames, config.max_frame_pos),
        ("num_tokens", num_tokens, text.max_position_embeddings),
    ):
        if not 1 <= count <= limit:
            raise ValueError(f"{name} is {count}. This model takes 1 to {limit}.")
    config = copy.deepcopy(config)
    config.with_audio_branch = config.with_audio_branch and num_clips > 0
    head_size = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    item = placing.dtypes["decoder"].itemsize
    cache = 2 * text.num_hidden_layers * text.num_key_value_heads * head_size * num_tokens * item
    stages = [
        _vision_bytes(config, placing, num_frames),
        _query_bytes(config, placing, num_frames),
        _hearing_bytes(config.imagebind_audio_config, placing, num_clips),
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
    """Residual and its norm (D each), the middle before and after its activation (H each), for every patch."""
    vision = config.vision_config
    size: int = vision.image_size  # type: ignore[assignment]  # one number in every ViT of ours
    pixels = num_frames * 3 * size**2 * torch.float32.itemsize
    width = 2 * vision.hidden_size + 2 * vision.intermediate_size
    return int(_num_patches(config, num_frames) * width * placing.dtypes["vision"].itemsize + pixels)


def _query_bytes(config: VideoLlamaConfig, placing: Placing, num_frames: int) -> int:
    """The ViT's output as it came and in the Q-Former's type, and a cross-attention's keys and values of it."""
    vision, queries = config.vision_config, config.qformer_config
    item = placing.dtypes["qformer"].itemsize
    width = vision.hidden_size * (placing.dtypes["vision"].itemsize + item) + 2 * queries.hidden_size * item
    return int(_num_patches(config, num_frames) * width)


def _num_patches(config: VideoLlamaConfig, num_frames: int) -> int:
    """With the class tokens."""
    size: Any = config.vision_config.image_size
    patch: Any = config.vision_config.patch_size
    return int(num_frames * ((size // patch) ** 2 + 1))


def _hearing_bytes(config: ImageBindTowerConfig, placing: Placing, num_clips: int) -> int:
    tokens = num_clips * (config.num_patches + 1)
    return tokens * (2 * config.hidden_size + 2 * config.intermediate_size) * placing.dtypes["audio"].itemsize


def _prefill_bytes(config: VideoLlamaConfig, placing: Placing, num_tokens: int) -> int:
    """Embeddings, residual and its norm (D each), gate, up and their product (H each); an int8 matrix, widened."""
    text, item = config.text_config, placing.dtypes["decoder"].itemsize
    width = 3 * text.hidden_size + 3 * text.intermediate_size
    is_widened = placing.quantization == "int8" and num_tokens >= INT8_WIDENS_FROM
    matrix = text.hidden_size * text.intermediate_size * item if is_widened else 0
    return int(num_tokens * width * item + matrix)
