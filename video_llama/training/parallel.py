"""How a model is spread over processes: copied (DDP) or cut into shards (FSDP2), and its tensors made whole again.

With FSDP2 every decoder layer is a unit that is gathered when it runs; the rest of the model is one more unit.
ImageBind's vision tower, which the trainer calls outside the model's forward pass, is kept whole.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

if TYPE_CHECKING:
    from video_llama.models.video_llama import VideoLlamaForConditionalGeneration

Mode = Literal["ddp", "fsdp2"]


def shard_model(model: VideoLlamaForConditionalGeneration) -> None:
    """Cut the parameters into one shard for each process, in place; before the optimiser is made."""
    from torch.distributed.fsdp import fully_shard

    for layer in model.model.language_model.layers:
        fully_shard(layer)
    tower = getattr(model.model, "imagebind_vision", None)
    fully_shard(model, ignored_params=set() if tower is None else set(tower.parameters()))


def exchange_only(network: nn.Module, is_wanted: bool) -> Any:
    """A context in which the backward pass exchanges gradients between processes only if ``is_wanted``."""
    from contextlib import nullcontext

    from torch.distributed.fsdp import FSDPModule

    if isinstance(network, FSDPModule):
        network.set_requires_gradient_sync(is_wanted)
    elif isinstance(network, nn.parallel.DistributedDataParallel) and not is_wanted:
        return network.no_sync()
    return nullcontext()


def whole(tensor: Tensor) -> Tensor:
    """The tensor that the processes hold together; every process must ask for it."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def like(tensor: Tensor, parameter: Tensor) -> Tensor:
    """A whole tensor, cut as ``parameter`` is where their shapes agree (a step count, for one, has no shape)."""
    if isinstance(parameter, DTensor) and tensor.shape == parameter.shape:
        return distribute_tensor(tensor.to(parameter.device), parameter.device_mesh, parameter.placements)
    return tensor


def whole_optimizer_state(optimizer: torch.optim.Optimizer, *, keeps: bool = True) -> dict[str, Any]:
    """``optimizer.state_dict()`` as one process that holds everything has it; every process must ask for it.

    One that does not write it ``keeps`` none of its tensors.
    """
    state = optimizer.state_dict()
    entries: dict[int, dict[str, Any]] = {index: {} for index in state["state"]}
    for index, entry in state["state"].items():
        for key, value in entry.items():
            full = whole(value) if isinstance(value, Tensor) else value
            if keeps:
                entries[index][key] = full.cpu() if isinstance(full, Tensor) else full
    return {**state, "state": entries}


def load_optimizer_state(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Put a whole state into an optimiser, whose parameters may be shards. Raises ValueError if it is another's."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    tensors = {
        index: {key: like(value, parameters[index]) for key, value in entry.items()}
        for index, entry in state["state"].items()
    }
    optimizer.load_state_dict({**state, "state": tensors})
