"""What trained, as the reference's own trainer writes it: ``checkpoint_N.pth``, N the epoch counted from 0.

Source: the reference's runners/runner_base.py (``_save_checkpoint``, ``optimizer``); golden/full_keys.json, whose
``trainable_keys`` stand in the order of its ``named_parameters()``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import yaml

from video_llama.checkpoints.keys import reference_names, revert_state_dict
from video_llama.training.optim import is_decayed

if TYPE_CHECKING:
    from torch import Tensor

MODULES = (
    *("query_tokens", "video_query_tokens", "audio_query_tokens", "visual_encoder", "ln_vision", "Qformer"),
    *("llama_model", "llama_proj", "video_frame_position_embedding", "video_Qformer", "audio_encoder"),
    *("audio_Qformer", "audio_llama_proj", "audio_position_embedding"),
)
"""The reference's modules in the order of its parameters; within those that can train here, the order is ours."""


def reference_file(epoch: int) -> str:
    """The file's name in the reference's output folder."""
    return f"checkpoint_{epoch}.pth"


def reference_checkpoint(
    tensors: Mapping[str, Tensor],
    optimizer_state: Mapping[str, Any],
    scaler: Mapping[str, Any] | None,
    config_text: str,
    epoch: int,
) -> dict[str, Any]:
    """The content of the file: ``model``, ``optimizer``, ``config``, ``scaler`` and ``epoch``.

    ``tensors`` are the trained parameters by our names, in the model's order, which AdamW's state follows. Buffers,
    which the reference's file holds as well, are left out: they are computed, not trained. ValueError for a tensor that
    the reference has no name for.
    """
    return {
        "model": revert_state_dict(dict(tensors)),
        "optimizer": _reordered(tensors, optimizer_state),
        "config": yaml.safe_load(config_text),
        "scaler": None if scaler is None else dict(scaler),
        "epoch": epoch,
    }


def _reordered(tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> dict[str, Any]:
    """AdamW's state with the parameters numbered in the reference's order, decayed ones first in both."""
    number_of = {name: number for number, name in enumerate(_by_group(tensors, list(tensors)))}
    order = [number_of[name] for name in _by_group(tensors, sorted(tensors, key=_place))]
    entries = {new: state["state"][old] for new, old in enumerate(order) if old in state["state"]}
    groups: list[dict[str, Any]] = []
    first = 0
    for group in state["param_groups"]:
        last = first + len(group["params"])
        groups.append({**group, "params": list(range(first, last))})
        first = last
    return {"state": entries, "param_groups": groups}


def _by_group(tensors: Mapping[str, Tensor], names: list[str]) -> list[str]:
    return sorted(names, key=lambda name: not is_decayed(name, tensors[name].ndim))


def _place(name: str) -> int:
    return MODULES.index(reference_names(name)[0].split(".")[0])
