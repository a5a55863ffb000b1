"""Distribute a model over processes, replicated (DDP) or sharded (FSDP2), and gather sharded tensors.

With FSDP2 each decoder layer is one unit, which is gathered when it runs, and the rest of the model is another unit.
ImageBind's vision encoder is not sharded, because the trainer calls it outside the model's forward pass.
"""

from __future__ import annotations

import math
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from video_llama.models.video_llama import VideoLlamaForConditionalGeneration


def shard_model(model: VideoLlamaForConditionalGeneration, mesh: DeviceMesh | None = None) -> None:
    """Shard the parameters over the processes of ``mesh`` (None: all), in place.

    Must be called before the optimizer is created.
    """
    for layer in model.model.language_model.layers:
        fully_shard(layer, mesh=mesh)
    tower = getattr(model.model, "imagebind_vision", None)
    fully_shard(model, mesh=mesh, ignored_params=set() if tower is None else set(tower.parameters()))


def exchange_only(network: nn.Module, is_wanted: bool) -> Any:
    """Return a context in which the backward pass synchronizes gradients between processes only if ``is_wanted``."""
    if isinstance(network, FSDPModule):
        network.set_requires_gradient_sync(is_wanted)
    elif isinstance(network, nn.parallel.DistributedDataParallel) and not is_wanted:
        return network.no_sync()
    return nullcontext()


def full_tensor(tensor: Tensor) -> Tensor:
    """Return the unsharded tensor. Collective: every process must call it."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def shard_like(tensor: Tensor, parameter: Tensor) -> Tensor:
    """Return ``tensor`` sharded like ``parameter`` if they have the same shape (unlike AdamW's step count)."""
    if isinstance(parameter, DTensor) and tensor.shape == parameter.shape:
        return distribute_tensor(tensor.to(parameter.device), parameter.device_mesh, parameter.placements)
    return tensor


def full_optimizer_state(optimizer: torch.optim.Optimizer, *, keeps: bool = True) -> dict[str, Any]:
    """Return ``optimizer.state_dict()`` with unsharded tensors on the CPU. Collective: every process must call it.

    With ``keeps=False`` the tensors are discarded. Processes that do not write a checkpoint use it to save memory.
    """
    state = optimizer.state_dict()
    entries: dict[int, dict[str, Any]] = {index: {} for index in state["state"]}
    for index, entry in state["state"].items():
        for key, value in entry.items():
            full = full_tensor(value) if isinstance(value, Tensor) else value
            if keeps:
                entries[index][key] = full.cpu() if isinstance(full, Tensor) else full
    return {**state, "state": entries}


def load_optimizer_state(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Load an unsharded state into an optimizer, whose parameters may be sharded.

    Raises ValueError or TypeError if the state is not one of AdamW for these parameters.
    """
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    _check_state(optimizer, parameters, state)
    tensors = {
        index: {key: shard_like(value, parameters[index]) for key, value in entry.items()}
        for index, entry in state["state"].items()
    }
    optimizer.load_state_dict({**state, "state": tensors})


def _check_state(optimizer: torch.optim.Optimizer, parameters: list[Tensor], state: Any) -> None:
    """Raise ValueError unless ``state`` has the form that ``full_optimizer_state`` returns for this optimizer."""
    if not isinstance(state, dict) or not all(isinstance(state.get(key), kind) for key, kind in _STATE_KINDS.items()):
        raise ValueError("the optimizer state has no 'state' and 'param_groups'")
    for index, entry in state["state"].items():
        if not isinstance(index, int) or not 0 <= index < len(parameters) or not isinstance(entry, dict):
            raise ValueError(f"the optimizer state has an entry {index!r}, which belongs to no parameter")
        for key, value in entry.items():
            shapes = [torch.Size(), parameters[index].shape]
            if not isinstance(value, Tensor) or value.shape not in shapes or not value.is_floating_point():
                raise ValueError(f"{key} of parameter {index} in the optimizer state has another shape or type")
    for saved, own in zip(state["param_groups"], optimizer.param_groups, strict=True):
        wrong = [key for key, value in own.items() if key in saved and not _is_alike(saved[key], value)]
        if wrong:
            raise ValueError(f"{wrong[0]} of a parameter group in the optimizer state is of another type")


_STATE_KINDS = {"state": dict, "param_groups": list}


def _is_alike(saved: Any, own: Any) -> bool:
    """Return whether two settings of a parameter group are of one type; numbers must be finite."""
    if isinstance(own, list | tuple):
        return isinstance(saved, list | tuple) and len(saved) == len(own)
    if isinstance(own, bool) or own is None:
        return saved is None or isinstance(saved, bool)
    return not isinstance(own, int | float) or (isinstance(saved, int | float) and abs(saved) < math.inf)
