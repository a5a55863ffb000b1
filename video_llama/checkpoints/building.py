"""Fill a model on the meta device with stored tensors, each directly in its final data type and place.

On a CPU, a tensor that keeps its data type stays memory-mapped to its file.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from video_llama.log import activity
from video_llama.models.packed_linear import PackedLinear
from video_llama.models.placement import (
    DISK,
    Placing,
    device_of,
    main_device,
    put_tensor,
    require_accelerate,
    resolve_device_map,
    set_form,
)
from video_llama.models.video_llama import VideoLlamaForConditionalGeneration

CONVERTED_ROWS = 64
"""Rows of a matrix that are converted at a time."""


class TensorReader(Protocol):
    """The stored tensors of a complete model, by parameter name."""

    @property
    def dtypes(self) -> Mapping[str, torch.dtype]:
        """Stored data type of each tensor."""
        ...

    @property
    def files(self) -> Mapping[str, tuple[Path, str]]:
        """The safetensors file of each tensor and its name there; empty if disk offloading is unsupported."""
        ...

    def read(self, names: Sequence[str], *, is_kept: bool) -> Iterator[tuple[str, Tensor]]:
        """Yield the named tensors in any order. ``is_kept``: they stay in the model as they are, mapped."""
        ...


def build_model(
    model: VideoLlamaForConditionalGeneration, tensors: TensorReader, placing: Placing
) -> VideoLlamaForConditionalGeneration:
    """Fill ``model`` (from ``meta_model``) with ``tensors``, which must be complete, as ``placing`` specifies.

    Tensors that keep their type are read separately from those that are converted, so that only their part of a file
    stays mapped. Raises ValueError for disk offloading without ``tensors.files`` or with a quantized decoder,
    MissingExtraError for a device map without accelerate.
    """
    set_form(model, placing)
    dtypes = {name: tensor.dtype for name, tensor in model.state_dict().items()}
    buffers = {name for name, _ in model.named_buffers()}
    device_map = resolve_device_map(model, placing)
    if DISK in device_map.values() and not tensors.files:
        raise ValueError("Only a model folder supports offloading to disk. Write one with: video-llama convert")
    computes_on = main_device(device_map)
    kept = [name for name, dtype in tensors.dtypes.items() if dtype == dtypes.get(name)]
    converted = [name for name, dtype in tensors.dtypes.items() if dtype != dtypes.get(name)]
    with activity("reading weights", len(tensors.dtypes)) as advance:
        for name, tensor in chain(tensors.read(kept, is_kept=True), tensors.read(converted, is_kept=False)):
            device = device_of(name, device_map)
            if device == DISK and name in buffers:  # accelerate does not offload buffers
                device = computes_on
            if device != DISK:
                _fill(model, name, tensor, torch.device(device), dtypes)
            if advance is not None:
                advance()
    _compute_buffers(model, computes_on)
    model.tie_weights()
    if placing.device_map is not None:
        _dispatch(model, device_map, {name: (*stored, dtypes[name]) for name, stored in tensors.files.items()})
    elif placing.is_vit_on_cpu and placing.device.type != "cpu":
        _run_on_cpu(model.model.frame_encoder.vision_model)
    return model


def _fill(model: nn.Module, name: str, tensor: Tensor, device: torch.device, dtypes: Mapping[str, torch.dtype]) -> None:
    path, _, leaf = name.rpartition(".")
    owner = model.get_submodule(path)
    if isinstance(owner, PackedLinear) and leaf == "weight":
        owner.pack(tensor, device)
        return
    is_on_cpu = device.type == "cpu"
    put_tensor(model, name, _converted(tensor, dtypes[name]) if is_on_cpu else tensor.to(device, dtypes[name]))


def _converted(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """Return the tensor itself if it has the data type, else a converted copy.

    float16 is converted to bfloat16 through float32, a few rows at a time: ``Tensor.to`` took 3.5 times as long.
    """
    if (tensor.dtype, dtype, tensor.dim()) != (torch.float16, torch.bfloat16, 2):
        return tensor.to(dtype)
    converted = torch.empty_like(tensor, dtype=dtype)
    for part, new in zip(torch.split(tensor, CONVERTED_ROWS), torch.split(converted, CONVERTED_ROWS), strict=True):
        new.copy_(part.float())
    return converted


def _compute_buffers(model: VideoLlamaForConditionalGeneration, device: torch.device) -> None:
    """Compute the buffers that are not stored: the rotary frequencies, always in float32."""
    for name, module in list(model.named_modules()):
        if isinstance(module, LlamaRotaryEmbedding):
            model.set_submodule(name, LlamaRotaryEmbedding(module.config).to(device))
    stored = set(model.state_dict())
    left = [name for name, tensor in model.named_buffers() if name not in stored and tensor.is_meta]
    assert not left, f"nothing computes {left}"


def _dispatch(
    model: VideoLlamaForConditionalGeneration,
    device_map: dict[str, Any],
    files: Mapping[str, tuple[Path, str, torch.dtype]],
) -> None:
    """Add accelerate's hooks, which move inputs and offloaded weights to the device of each module."""
    from accelerate import dispatch_model

    index = {
        name: {"safetensors_file": str(file), "weight_name": stored_name, "dtype": str(dtype).removeprefix("torch.")}
        for name, (file, stored_name, dtype) in files.items()
        if device_of(name, device_map) == DISK
    }
    dispatch_model(
        model,
        device_map,
        main_device=str(main_device(device_map)),
        offload_index=index or None,
        skip_keys=model._skip_keys_device_placement,
    )


def _run_on_cpu(module: nn.Module) -> None:
    require_accelerate()
    from accelerate.hooks import AlignDevicesHook, add_hook_to_module

    hook = AlignDevicesHook(execution_device="cpu", io_same_device=True, place_submodules=False)
    add_hook_to_module(module, hook)
