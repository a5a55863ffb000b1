"""The dimensions of a model from the shapes of its tensors: what the reference leaves to code, read from its files.

Three things leave no trace in a shape: how many heads an attention has, the step between the audio trunk's patches, and
the height and width that a number of patches came from. They are known for the published widths; for others they have
to be said (``model.config`` in an evaluation YAML).
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping
from typing import Any, Literal

from video_llama.checkpoints.keys import reference_names
from video_llama.checkpoints.published_files import remedy_for
from video_llama.errors import CheckpointError
from video_llama.models.configuration import VideoLlamaConfig

Shape = tuple[int, ...]
Shapes = Mapping[str, Shape]

HEADS = {"ViT": {1408: 16}, "Q-Former": {768: 12}, "ImageBind audio": {768: 12}, "ImageBind vision": {1280: 16}}
"""Heads of the published networks by their width (reference: eva_vit.py, bert-base-uncased, imagebind_model.py)."""

AUDIO_INPUT, AUDIO_STRIDE = (128, 204), (10, 10)
"""Mel bins and frames of a clip and the step between patches (reference: imagebind_huge, ImageBind/data.py)."""

_VIT = "model.frame_encoder.vision_model"
_FRAME = "model.frame_encoder.qformer"
_LAYERS = "encoder.layer"


def infer_config(
    shapes: Shapes,
    text_config: Mapping[str, Any],
    overrides: Mapping[str, Any] | None = None,
    *,
    unknown_heads: int | None = None,
    drawn: Collection[str] = (),
    **settings: Any,
) -> VideoLlamaConfig:
    """The configuration of the model that tensors of these shapes (by our names) make up.

    ``text_config`` is the decoder's ``config.json``; ``overrides`` are arguments of VideoLlamaConfig, sections in part,
    that win over what is inferred; ``settings`` are further arguments. ``unknown_heads`` stands in for a number of
    heads that is not known, where shapes alone matter. ``drawn`` are parts (of ``initial.DRAWN_PARTS``) without
    tensors: their dimensions are in ``settings``, or VideoLlamaConfig's defaults. Raises CheckpointError that names the
    tensor which is missing, or the number that has to be given.
    """
    sections: dict[str, Any] = {
        "vision_config": _vit(shapes),
        "qformer_config": _qformer(shapes, _FRAME),
        "num_query_tokens": _shape(shapes, "model.frame_encoder.query_tokens")[1],
        **_branch(shapes, "video", drawn),
        "with_audio_branch": _has(shapes, "model.audio_qformer."),
        "with_imagebind_vision": _has(shapes, "model.imagebind_vision."),
        "text_config": {key: value for key, value in text_config.items() if not key.startswith("_")},
        **settings,
    }
    if sections["with_audio_branch"]:
        sections |= _audio(shapes, drawn)
    if sections["with_imagebind_vision"]:
        sections["imagebind_vision_config"] = _vision_tower(shapes)
    _override(sections, overrides or {})
    _fill_heads(sections, unknown_heads)
    try:
        return VideoLlamaConfig(**sections)
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"The weights' dimensions do not make a model: {error} Correct model.config.") from error


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
    """One of the three Q-Formers. Cross-attention comes in every n-th layer from the first on."""
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


def _branch(shapes: Shapes, kind: Literal["video", "audio"], drawn: Collection[str]) -> dict[str, Any]:
    """A sequence Q-Former and what stands around it."""
    prefix = f"model.{kind}_qformer"
    facts: dict[str, Any] = {}
    if f"{prefix}.qformer." not in drawn:
        facts[f"{kind}_qformer_config"] = _qformer(shapes, f"{prefix}.qformer")
    if f"{prefix}.query_tokens" not in drawn:
        facts[f"num_{kind}_query_tokens"] = _shape(shapes, f"{prefix}.query_tokens")[1]
    if f"{prefix}.position_embeddings." not in drawn:
        key = {"video": "max_frame_pos", "audio": "max_audio_pos"}[kind]
        facts[key] = _shape(shapes, f"{prefix}.position_embeddings.weight")[0]
    return facts


def _audio(shapes: Shapes, drawn: Collection[str]) -> dict[str, Any]:
    prefix = "model.imagebind_audio"
    width, _, *kernel = _shape(shapes, f"{prefix}.patch_weight")
    return {
        **_branch(shapes, "audio", drawn),
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
    """Heads of the published widths. The two fusion Q-Formers have those of the frame Q-Former."""
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
                f"The {kind} is {section['hidden_size']} wide, and no tensor tells its number of attention heads "
                f"(known for {', '.join(map(str, HEADS[kind]))}). Set model.config.{key}.num_attention_heads."
            )
        section["num_attention_heads"] = heads


def _shape(shapes: Shapes, name: str) -> Shape:
    if name not in shapes:
        theirs = " and ".join(reference_names(name))
        raise CheckpointError(
            f"{theirs} is in none of the files, and the model cannot be told without it: {remedy_for(name)}."
        )
    return shapes[name]


def _has(shapes: Shapes, prefix: str) -> bool:
    return any(name.startswith(prefix) for name in shapes)


def _count(shapes: Shapes, prefix: str) -> int:
    """How many numbered children the tensors below a prefix have."""
    numbered = re.compile(re.escape(prefix) + r"\.(\d+)\.")
    return len({match.group(1) for name in shapes if (match := numbered.match(name))})
