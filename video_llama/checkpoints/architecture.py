"""Infer the configuration of a model from the shapes of its tensors; the reference's files contain no configuration.

Shapes do not determine the number of attention heads, the stride of the audio trunk's patches, and the height
and width of the audio input. These are known for the published widths; for others they must be set in
``model.config`` of an evaluation YAML.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping
from typing import Any, Literal

from video_llama.checkpoints.files import Shape
from video_llama.checkpoints.keys import reference_names
from video_llama.checkpoints.published_files import remedy_for
from video_llama.errors import CheckpointError
from video_llama.models.configuration import VideoLlamaConfig
from video_llama.models.configuration_limits import BAD_VALUES, check_values, first_line

Shapes = Mapping[str, Shape]

HEADS = {"ViT": {1408: 16}, "Q-Former": {768: 12}, "ImageBind audio": {768: 12}, "ImageBind vision": {1280: 16}}
"""Network -> width -> number of heads, as published (reference: eva_vit.py, bert-base-uncased, imagebind_model.py)."""

AUDIO_INPUT, AUDIO_STRIDE = (128, 204), (10, 10)
"""Mel bins and frames of a clip, and the stride of its patches (reference: imagebind_huge, ImageBind/data.py)."""

_VIT = "model.frame_encoder.vision_model"
_FRAME = "model.frame_encoder.qformer"
_LAYERS = "encoder.layer"


def infer_config(
    shapes: Shapes,
    text_config: Mapping[str, Any],
    overrides: Mapping[str, Any] | None = None,
    *,
    unknown_heads: int | None = None,
    initialized: Collection[str] = (),
    **settings: Any,
) -> VideoLlamaConfig:
    """Return the configuration of a model with tensors of these shapes.

    Args:
        shapes: shape of each tensor, by our names.
        text_config: the decoder's ``config.json``.
        overrides: arguments of VideoLlamaConfig that replace inferred values; sections may be partial.
        unknown_heads: number of heads to use if it is unknown, for callers that need only shapes.
        initialized: prefixes (of ``initialization.INITIALIZABLE_PARTS``) of parts without tensors. Their dimensions
            come from ``settings``, else from VideoLlamaConfig's defaults.
        settings: further arguments of VideoLlamaConfig.

    Raises:
        CheckpointError: a tensor that is needed is missing, or a number of heads must be set.
    """
    sections: dict[str, Any] = {
        "vision_config": _vit(shapes),
        "qformer_config": _qformer(shapes, _FRAME),
        "num_query_tokens": _shape(shapes, "model.frame_encoder.query_tokens")[1],
        **_branch(shapes, "video", initialized),
        "with_audio_branch": _has(shapes, "model.audio_qformer."),
        "with_imagebind_vision": _has(shapes, "model.imagebind_vision."),
        "text_config": {key: value for key, value in text_config.items() if not key.startswith("_")},
        **settings,
    }
    if sections["with_audio_branch"]:
        sections |= _audio(shapes, initialized)
    if sections["with_imagebind_vision"]:
        sections["imagebind_vision_config"] = _vision_tower(shapes)
    _override(sections, overrides or {})
    _fill_heads(sections, unknown_heads)
    try:
        check_values(sections)
        return VideoLlamaConfig(**sections)
    except BAD_VALUES as error:
        raise CheckpointError(
            f"The dimensions of the weights are inconsistent: {first_line(error)} Correct model.config."
        ) from error


def _vit(shapes: Shapes) -> dict[str, Any]:
    width, _, patch_size, _ = _shape(shapes, f"{_VIT}.embeddings.patch_embedding.weight")
    num_patches = _shape(shapes, f"{_VIT}.embeddings.position_embedding")[1] - 1
    return {
        "hidden_size": width,
        "intermediate_size": _shape(shapes, f"{_VIT}.encoder.layers.0.mlp.fc1.weight")[0],
        "num_hidden_layers": _count(shapes, f"{_VIT}.encoder.layers"),
        "patch_size": patch_size,
        "image_size": math.isqrt(num_patches) * patch_size,
        "layer_norm_eps": 1e-6,
        "qkv_bias": True,
    }


def _qformer(shapes: Shapes, prefix: str) -> dict[str, Any]:
    """Return the dimensions of one of the three Q-Formers. Every n-th layer, from the first, has cross-attention."""
    layers = f"{prefix}.{_LAYERS}"
    num_layers = _count(shapes, layers)
    crossing = [layer for layer in range(num_layers) if _has(shapes, f"{layers}.{layer}.crossattention.")]
    key = _shape(shapes, f"{layers}.0.crossattention.attention.key.weight")
    return {
        "hidden_size": key[0],
        "encoder_hidden_size": key[1],
        "num_hidden_layers": num_layers,
        "cross_attention_frequency": crossing[1] if len(crossing) > 1 else max(num_layers, 1),
        "intermediate_size": _shape(shapes, f"{layers}.0.intermediate_query.dense.weight")[0],
    }


def _branch(shapes: Shapes, kind: Literal["video", "audio"], initialized: Collection[str]) -> dict[str, Any]:
    """Return the dimensions of a sequence Q-Former, its queries and its position embeddings."""
    prefix = f"model.{kind}_qformer"
    facts: dict[str, Any] = {}
    if f"{prefix}.qformer." not in initialized:
        facts[f"{kind}_qformer_config"] = _qformer(shapes, f"{prefix}.qformer")
    if f"{prefix}.query_tokens" not in initialized:
        facts[f"num_{kind}_query_tokens"] = _shape(shapes, f"{prefix}.query_tokens")[1]
    if f"{prefix}.position_embeddings." not in initialized:
        key = {"video": "max_frame_pos", "audio": "max_audio_pos"}[kind]
        facts[key] = _shape(shapes, f"{prefix}.position_embeddings.weight")[0]
    return facts


def _audio(shapes: Shapes, initialized: Collection[str]) -> dict[str, Any]:
    prefix = "model.imagebind_audio"
    width, _, *kernel = _shape(shapes, f"{prefix}.patch_weight")
    return {
        **_branch(shapes, "audio", initialized),
        "imagebind_audio_config": {
            **_tower(shapes, prefix, width),
            "input_size": AUDIO_INPUT,
            "kernel_size": tuple(kernel),
            "stride": AUDIO_STRIDE,
        },
    }


def _vision_tower(shapes: Shapes) -> dict[str, Any]:
    prefix = "model.imagebind_vision"
    width, _, depth, *kernel = _shape(shapes, f"{prefix}.patch_weight")
    side = math.isqrt(_shape(shapes, f"{prefix}.position_embedding")[1] - 1)
    return {
        **_tower(shapes, prefix, width),
        "input_size": (side * kernel[0], side * kernel[1]),
        "kernel_size": tuple(kernel),
        "stride": tuple(kernel),
        "temporal_kernel": depth,
    }


def _tower(shapes: Shapes, prefix: str, width: int) -> dict[str, Any]:
    return {
        "hidden_size": width,
        "num_hidden_layers": _count(shapes, f"{prefix}.blocks"),
        "mlp_ratio": _shape(shapes, f"{prefix}.blocks.0.fc1.weight")[0] / width,
        "embedding_size": _shape(shapes, f"{prefix}.head.weight")[0],
    }


def _override(sections: dict[str, Any], overrides: Mapping[str, Any]) -> None:
    for key, value in overrides.items():
        if isinstance(value, Mapping):
            sections[key] = {**sections.get(key, {}), **value}
        else:
            sections[key] = value


def _fill_heads(sections: dict[str, Any], unknown_heads: int | None) -> None:
    """Set the number of heads for the published widths. The sequence Q-Formers take it from the frame Q-Former."""
    kinds = {
        "vision_config": "ViT",
        "qformer_config": "Q-Former",
        "imagebind_audio_config": "ImageBind audio",
        "imagebind_vision_config": "ImageBind vision",
    }
    for key, kind in kinds.items():
        section = sections.get(key)
        if section is None or "num_attention_heads" in section:
            continue
        heads = HEADS[kind].get(section["hidden_size"], unknown_heads)
        if heads is None:
            raise CheckpointError(
                f"The number of attention heads of the {kind} cannot be inferred for width {section['hidden_size']} "
                f"(known for {', '.join(map(str, HEADS[kind]))}). Set model.config.{key}.num_attention_heads."
            )
        section["num_attention_heads"] = heads


def _shape(shapes: Shapes, name: str) -> Shape:
    if name not in shapes:
        raise CheckpointError(
            f"The files do not contain {' and '.join(reference_names(name))}, which is needed to infer the model's "
            f"configuration. Remedy: {remedy_for(name)}."
        )
    return shapes[name]


def _has(shapes: Shapes, prefix: str) -> bool:
    return any(name.startswith(prefix) for name in shapes)


def _count(shapes: Shapes, prefix: str) -> int:
    """Return the number of layers: the different numbers that follow ``prefix`` in the names."""
    numbered = re.compile(re.escape(prefix) + r"\.(\d+)\.")
    return len({match.group(1) for name in shapes if (match := numbered.match(name))})
