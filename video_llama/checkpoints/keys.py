"""Map parameter names between the reference's checkpoints and ours, in both directions.

Source: golden/full_keys.json (every key of the reference at 7B and 13B) and its NOTES.md, section 3. Two kinds of
tensors are not only renamed: the reference's ViT stores its query and value biases separately (the key bias is zero),
and ImageBind's scale becomes a scalar.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

_VIT = "model.frame_encoder.vision_model"

PREFIXES: dict[str, str] = {
    "visual_encoder.blocks.": f"{_VIT}.encoder.layers.",
    "visual_encoder.patch_embed.proj.": f"{_VIT}.embeddings.patch_embedding.",
    "ln_vision.": f"{_VIT}.post_layernorm.",
    "Qformer.bert.": "model.frame_encoder.qformer.",
    "video_Qformer.bert.": "model.video_qformer.qformer.",
    "audio_Qformer.bert.": "model.audio_qformer.qformer.",
    "video_frame_position_embedding.": "model.video_qformer.position_embeddings.",
    "audio_position_embedding.": "model.audio_qformer.position_embeddings.",
    "llama_proj.": "model.video_qformer.language_projection.",
    "audio_llama_proj.": "model.audio_qformer.language_projection.",
    "llama_model.model.": "model.language_model.",
    "llama_model.lm_head.": "lm_head.",
}
"""Name prefix of the reference -> ours. Within a side, no prefix is a prefix of another."""

WHOLE_NAMES: dict[str, str] = {
    "visual_encoder.cls_token": f"{_VIT}.embeddings.class_embedding",
    "visual_encoder.pos_embed": f"{_VIT}.embeddings.position_embedding",
    "query_tokens": "model.frame_encoder.query_tokens",
    "video_query_tokens": "model.video_qformer.query_tokens",
    "audio_query_tokens": "model.audio_qformer.query_tokens",
    "audio_encoder.modality_postprocessors.audio.1.log_logit_scale": "model.imagebind_audio.log_logit_scale",
}

_VIT_PARTS = {
    ".norm1.": ".layer_norm1.",
    ".norm2.": ".layer_norm2.",
    ".attn.qkv.": ".self_attn.qkv.",
    ".attn.proj.": ".self_attn.projection.",
}
_QFORMER_PARTS = {"embeddings.LayerNorm.": "layernorm.", "attention.self.": "attention.attention."}
_TOWER_PARTS = {
    ".norm_1.": ".norm1.",
    ".norm_2.": ".norm2.",
    ".attn.in_proj_": ".attention.qkv.",
    ".attn.out_proj.": ".attention.projection.",
    ".attn.bias_": ".attention.bias_",
    ".mlp.fc": ".fc",
}
INNER_PARTS: dict[str, dict[str, str]] = {
    f"{_VIT}.encoder.layers.": _VIT_PARTS,
    "model.frame_encoder.qformer.": _QFORMER_PARTS,
    "model.video_qformer.qformer.": _QFORMER_PARTS,
    "model.audio_qformer.qformer.": _QFORMER_PARTS,
    "model.imagebind_audio.blocks.": _TOWER_PARTS,
    "model.imagebind_vision.blocks.": _TOWER_PARTS,
}
"""Our prefix -> replacements in the rest of the name, reference -> ours."""

for _modality in ("audio", "vision"):
    _ours = f"model.imagebind_{_modality}"
    _theirs = "audio_encoder.modality"
    PREFIXES[f"{_theirs}_trunks.{_modality}.blocks."] = f"{_ours}.blocks."
    PREFIXES[f"{_theirs}_trunks.{_modality}.pre_transformer_layer.0."] = f"{_ours}.pre_norm."
    PREFIXES[f"{_theirs}_preprocessors.{_modality}.rgbt_stem.norm_layer."] = f"{_ours}.stem_norm."
    PREFIXES[f"{_theirs}_heads.{_modality}.0."] = f"{_ours}.head_norm."
    PREFIXES[f"{_theirs}_heads.{_modality}.2."] = f"{_ours}.head."
    WHOLE_NAMES[f"{_theirs}_preprocessors.{_modality}.cls_token"] = f"{_ours}.class_token"
    WHOLE_NAMES[f"{_theirs}_preprocessors.{_modality}.pos_embedding_helper.pos_embed"] = f"{_ours}.position_embedding"
WHOLE_NAMES["audio_encoder.modality_preprocessors.audio.rgbt_stem.proj.weight"] = "model.imagebind_audio.patch_weight"
WHOLE_NAMES["audio_encoder.modality_preprocessors.vision.rgbt_stem.proj.1.weight"] = (
    "model.imagebind_vision.patch_weight"
)

IGNORED = re.compile(
    r".*\.position_ids$|.*\.rotary_emb\.inv_freq$"
    r"|audio_encoder\.modality_\w+\.(text|depth|thermal|imu)\..*"
)
"""Buffers that are computed, not read, and the four modalities of ImageBind that Video-LLaMA does not use."""

BIAS_PARTS = re.compile(r"visual_encoder\.blocks\.(\d+)\.attn\.[qv]_bias$")

JOINED_BIAS = re.compile(re.escape(_VIT) + r"\.encoder\.layers\.(\d+)\.self_attn\.qkv\.bias$")
"""Our name of a ViT bias: query, key and value in one vector, made from the reference's two tensors."""

ADAPTER = re.compile(r"\.lora_|\.base_layer\.")
"""Matches PEFT's names of adapters and of the layers that have one; the reference has none."""


def to_ours(name: str) -> str | None:
    """Return our name for a name of the reference, or None if it is ignored, part of a joined bias, or unknown.

    >>> to_ours("llama_proj.weight")
    'model.video_qformer.language_projection.weight'
    """
    if name in WHOLE_NAMES:
        return WHOLE_NAMES[name]
    for theirs, ours in PREFIXES.items():
        if name.startswith(theirs) and not BIAS_PARTS.match(name):
            rest = name[len(theirs) :]
            for old, new in INNER_PARTS.get(ours, {}).items():
                rest = rest.replace(old, new)
            return ours + rest
    return None


def to_reference(name: str) -> str | None:
    """Return the reference's name for one of ours, or None if it is a joined bias, an adapter, or unknown.

    >>> to_reference("model.video_qformer.query_tokens")
    'video_query_tokens'
    """
    if ADAPTER.search(name):
        return None
    for theirs, ours in WHOLE_NAMES.items():
        if name == ours:
            return theirs
    for theirs, ours in PREFIXES.items():
        if name.startswith(ours) and not JOINED_BIAS.match(name):
            rest = name[len(ours) :]
            for old, new in INNER_PARTS.get(ours, {}).items():
                rest = rest.replace(new, old)
            return theirs + rest
    return None


def reference_names(name: str) -> tuple[str, ...]:
    """Return the reference's names of the tensors that make up one of ours: two for a joined bias, else one.

    Raises ValueError for a name without counterpart in the reference, such as an adapter's.

    >>> reference_names("model.video_qformer.query_tokens")
    ('video_query_tokens',)
    """
    joined = JOINED_BIAS.match(name)
    if joined:
        stem = f"visual_encoder.blocks.{joined.group(1)}.attn"
        return f"{stem}.q_bias", f"{stem}.v_bias"
    renamed = to_reference(name)
    if renamed is None:
        raise ValueError(
            f"{name} has no counterpart in the reference's checkpoints. Merge adapters first, or remove the tensor."
        )
    return (renamed,)


def convert_state_dict(
    reference: Mapping[str, Tensor], include: Callable[[str], bool] = lambda name: True
) -> tuple[dict[str, Tensor], list[str], list[str]]:
    """Rename a reference state dict to ours.

    Args:
        reference: tensors by the reference's names.
        include: returns whether a tensor with this name of ours is needed; the others are ignored.

    Returns:
        our state dict, the reference's names of the ignored tensors, and the unknown names. Half of a ViT bias without
        the other half is unknown.
    """
    ours: dict[str, Tensor] = {}
    ignored: list[str] = []
    unknown: list[str] = []
    for name, tensor in reference.items():
        renamed = _bias_name(name, reference) if BIAS_PARTS.match(name) else to_ours(name)
        if IGNORED.match(name):
            ignored.append(name)
        elif renamed is None:
            unknown.append(name)
        elif not include(renamed):
            ignored.append(name)
        elif BIAS_PARTS.match(name):
            ours[renamed] = _joined_bias(name, reference)
        else:
            ours[renamed] = tensor.reshape(()) if renamed.endswith("log_logit_scale") else tensor
    return ours, ignored, unknown


def revert_state_dict(ours: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename a state dict of ours to the reference's names, the inverse of :func:`convert_state_dict`.

    The ViT's key bias is dropped: the reference has none, and it does not change the softmax. Raises ValueError for a
    name without counterpart in the reference, such as an adapter's.
    """
    reference: dict[str, Tensor] = {}
    for name, tensor in ours.items():
        parts = (tensor,) if not JOINED_BIAS.match(name) else tensor.chunk(3)[::2]
        reference |= zip(reference_names(name), parts, strict=True)
    return reference


def _bias_name(name: str, reference: Mapping[str, Tensor]) -> str | None:
    """Return our name for the bias of which ``name`` is one half, or None if the other half is missing."""
    stem, block = name[: -len("q_bias")], name.split(".")[2]
    if {f"{stem}q_bias", f"{stem}v_bias"} <= reference.keys():
        return f"{_VIT}.encoder.layers.{block}.self_attn.qkv.bias"
    return None


def _joined_bias(name: str, reference: Mapping[str, Tensor]) -> Tensor:
    stem = name[: -len("q_bias")]
    query, value = reference[f"{stem}q_bias"], reference[f"{stem}v_bias"]
    return torch.cat([query, torch.zeros_like(query), value])
