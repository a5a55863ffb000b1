"""Write trained parameters in the format of the reference's trainer: ``checkpoint_N.pth``, with N the epoch from 0.

Source: the reference's runners/runner_base.py (``_save_checkpoint``, ``optimizer``); golden/full_keys.json, whose
``trainable_keys`` are in the order of ``named_parameters()``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import yaml
from torch import Tensor

from video_llama.checkpoints.keys import reference_names, revert_state_dict
from video_llama.training.optim import is_decayed

MODULES = (
    *("query_tokens", "video_query_tokens", "audio_query_tokens", "visual_encoder", "ln_vision", "Qformer"),
    *("llama_model", "llama_proj", "video_frame_position_embedding", "video_Qformer", "audio_encoder"),
    *("audio_Qformer", "audio_llama_proj", "audio_position_embedding"),
)
"""The reference's modules in the order of its parameters. Within a trainable module, the order is the same as ours."""


def reference_file(epoch: int) -> str:
    """Return the name of the file of an epoch."""
    return f"checkpoint_{epoch}.pth"


def reference_checkpoint(
    tensors: Mapping[str, Tensor],
    optimizer_state: Mapping[str, Any],
    scaler: Mapping[str, Any] | None,
    config_text: str,
    epoch: int,
) -> dict[str, Any]:
    """Return the content of the file: ``model``, ``optimizer``, ``config``, ``scaler`` and ``epoch``.

    ``tensors`` are the trained parameters by our names, in the order of the model and of ``optimizer_state``. Buffers,
    which the reference's file also contains, are omitted because they are computed. Raises ValueError for a tensor
    without a name in the reference.
    """
    return {
        "model": revert_state_dict(dict(tensors)),
        "optimizer": _reordered(tensors, optimizer_state),
        "config": yaml.safe_load(config_text),
        "scaler": None if scaler is None else dict(scaler),
        "epoch": epoch,
    }


def _reordered(tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> dict[str, Any]:
    """Return the state of AdamW with parameters in the reference's order, those with weight decay first."""
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
