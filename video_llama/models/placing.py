"""A configuration and named tensors in, the whole model in its place out: each tensor once, in the type of its part.

The model is first made without memory (meta device) in its final types, so its size is known before anything is read;
then every tensor goes from its file to where it stays. What keeps its type on a CPU stays a mapped part of the file.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from video_llama.errors import MissingExtraError
from video_llama.models.configuration import VideoLlamaConfig
from video_llama.models.modeling_llama import PackedLinear, Quantization, pack_linears
from video_llama.models.video_llama import VideoLlamaForConditionalGeneration

ModelPart = Literal["vision", "qformer", "audio", "decoder"]
MODEL_PARTS: tuple[ModelPart, ...] = ("vision", "qformer", "audio", "decoder")
VIT = "model.frame_encoder.vision_model"
DISK = "disk"
ROWS_AT_ONCE = 64
"""Of a matrix whose type changes."""

_PREFIXES: dict[str, ModelPart] = {
    f"{VIT}.": "vision",
    "model.imagebind_": "audio",
    "model.language_model.": "decoder",
    "lm_head.": "decoder",
}

DeviceMap = Mapping[str, int | str | torch.device]
"""Beginnings of module names -> device; "" is the whole model, and the longest that fits counts."""


def part_of(name: str) -> ModelPart:
    """The part that a tensor belongs to; the Q-Formers, their queries, positions and projections are one."""
    return next((part for prefix, part in _PREFIXES.items() if name.startswith(prefix)), "qformer")


@dataclass(frozen=True)
class Placing:
    """In what form a model is held, and where. ``dtypes`` has a type for each of PARTS."""

    dtypes: Mapping[ModelPart, torch.dtype]
    quantization: Quantization | None = None
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    device_map: DeviceMap | Literal["auto"] | None = None
    """None puts everything on ``device``; "auto" spreads it over the GPUs, memory and disk that there are."""
    max_memory: Mapping[int | str, int | str] | None = None
    """For "auto": what may be used of each, in bytes or as "10GB", by GPU number or "cpu"."""
    is_vit_on_cpu: bool = False
    """Compute the ViT on the CPU whatever the device."""


def meta_model(config: VideoLlamaConfig) -> VideoLlamaForConditionalGeneration:
    """The model on the meta device: every tensor with its shape, and no memory."""
    with torch.device("meta"):
        return VideoLlamaForConditionalGeneration(config)


def empty_model(config: VideoLlamaConfig, placing: Placing) -> VideoLlamaForConditionalGeneration:
    """The model on the meta device: every shape and type as it will be, and no memory. In evaluation mode."""
    return _formed(meta_model(config), placing)


def _formed(model: VideoLlamaForConditionalGeneration, placing: Placing) -> VideoLlamaForConditionalGeneration:
    for name, parameter in list(model.named_parameters()):
        _put(model, name, parameter.detach().to(placing.dtypes[part_of(name)]))
    if placing.quantization is not None:
        layers = model.model.language_model.layers
        pack_linears(layers, placing.quantization, placing.dtypes["decoder"], placing.device)
    model.tie_weights()
    model.eval()
    return model


def build_model(
    model: VideoLlamaForConditionalGeneration,
    stored: Mapping[str, torch.dtype | None],
    read: Callable[[list[str], bool], Iterable[tuple[str, Tensor]]],
    placing: Placing,
    files: Mapping[str, Path] | None = None,
) -> VideoLlamaForConditionalGeneration:
    """``model``, a ``meta_model``, made whole from tensors by our names, all of them (their owner has checked).

    ``stored`` gives their types (None: one that torch lacks) and ``read`` the values of some, in any order. It is asked
    for those that stay as they are read (and told so) by themselves, so that only their part of a file stays mapped.
    ``files`` (name -> safetensors file) is where tensors are read from again and again if a device map puts them on
    disk. Raises ValueError for a disk without them and for a quantised decoder on it, MissingExtraError for a device
    map without accelerate.
    """
    _formed(model, placing)
    wanted = {name: tensor.dtype for name, tensor in model.state_dict().items()}
    buffers = {name for name, _ in model.named_buffers()}
    device_map = _device_map(model, placing)
    if DISK in device_map.values() and files is None:
        raise ValueError("Parts can lie on disk in a model folder only. Write one with: video-llama convert")
    main_device = _main_device(device_map)
    kept = [name for name, dtype in stored.items() if dtype == wanted.get(name)]
    converted = [name for name, dtype in stored.items() if dtype != wanted.get(name)]
    for name, tensor in chain(read(kept, True), read(converted, False)):
        device = _device_of(name, device_map)
        if device == DISK and name in buffers:  # accelerate leaves buffers where they are
            device = main_device
        if device != DISK:
            _fill(model, name, tensor, torch.device(device), wanted)
    _compute_buffers(model, main_device)
    model.tie_weights()
    if placing.device_map is not None:
        _dispatch(model, device_map, {name: (file, wanted[name]) for name, file in (files or {}).items()})
    elif placing.is_vit_on_cpu and placing.device.type != "cpu":
        _compute_on_cpu(model.model.frame_encoder.vision_model)
    return model


def _fill(model: nn.Module, name: str, tensor: Tensor, device: torch.device, wanted: Mapping[str, torch.dtype]) -> None:
    owner = model.get_submodule(name.rpartition(".")[0])
    if isinstance(owner, PackedLinear):
        owner.pack(tensor, device)
        return
    is_here = device.type == "cpu"
    _put(model, name, _converted(tensor, wanted[name]) if is_here else tensor.to(device, wanted[name]))


def _converted(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """On the CPU: the tensor itself where it has the type, else a copy.

    float16 becomes bfloat16 by way of float32, a few rows at a time: torch's own way took 3.5 times as long.
    """
    if (tensor.dtype, dtype, tensor.dim()) != (torch.float16, torch.bfloat16, 2):
        return tensor.to(dtype)
    converted = torch.empty_like(tensor, dtype=dtype)
    for part, new in zip(tensor.split(ROWS_AT_ONCE), converted.split(ROWS_AT_ONCE), strict=True):
        new.copy_(part.float())
    return converted


def _put(model: nn.Module, name: str, tensor: Tensor) -> None:
    """Make ``tensor`` itself, not a copy, the parameter or buffer of this name."""
    path, _, leaf = name.rpartition(".")
    owner = model.get_submodule(path)
    if leaf in owner._parameters:
        owner._parameters[leaf] = nn.Parameter(tensor)
    else:
        owner._buffers[leaf] = tensor


def _compute_buffers(model: VideoLlamaForConditionalGeneration, device: torch.device) -> None:
    """Buffers that no file holds: the rotary frequencies, always float32."""
    for name, module in list(model.named_modules()):
        if isinstance(module, LlamaRotaryEmbedding):
            model.set_submodule(name, LlamaRotaryEmbedding(module.config).to(device))
    stored = set(model.state_dict())
    left = [name for name, tensor in model.named_buffers() if name not in stored and tensor.is_meta]
    assert not left, f"nothing computes {left}"


def _device_map(model: VideoLlamaForConditionalGeneration, placing: Placing) -> dict[str, Any]:
    if placing.device_map is None:
        vit = {VIT: "cpu"} if placing.is_vit_on_cpu else {}
        return {"": placing.device, **vit}
    _require_accelerate()
    from accelerate import infer_auto_device_map
    from accelerate.utils import get_balanced_memory

    if placing.device_map != "auto":
        chosen = dict(_without_nesting(model, "", placing.device_map))
    else:
        blocks = model._no_split_modules
        memory = get_balanced_memory(model, placing.max_memory, blocks)
        chosen = dict(infer_auto_device_map(model, memory, blocks))
    on_disk = [name for name, device in chosen.items() if device == DISK and "language_model" in name]
    if placing.quantization is not None and on_disk:
        raise ValueError(
            f"A decoder in {placing.quantization} cannot lie on disk, and {on_disk[0]} would. Give more memory, or "
            "load without quantization."
        )
    return chosen


def _device_of(name: str, device_map: DeviceMap) -> Any:
    fitting = [prefix for prefix in device_map if prefix == "" or f"{name}.".startswith(f"{prefix}.")]
    if not fitting:
        raise ValueError(f"device_map has no place for {name}. Add an entry for it, or for '' (everything else).")
    return device_map[max(fitting, key=len)]


def _without_nesting(module: nn.Module, name: str, device_map: DeviceMap) -> Iterator[tuple[str, Any]]:
    """A map whose entries lie beside each other, as accelerate needs it: an entry around another is split."""
    begin = f"{name}." if name else ""
    if not any(key.startswith(begin) and key != name for key in device_map):
        yield name, _device_of(name, device_map)
        return
    for leaf, _ in [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]:
        yield f"{begin}{leaf}", _device_of(f"{begin}{leaf}", device_map)
    for leaf, child in module.named_children():
        yield from _without_nesting(child, f"{begin}{leaf}", device_map)


def _main_device(device_map: DeviceMap) -> torch.device:
    """What computes: the first GPU of a map, else the CPU."""
    devices = [torch.device(device) for device in device_map.values() if device != DISK]
    return next((device for device in devices if device.type != "cpu"), torch.device("cpu"))


def _dispatch(
    model: VideoLlamaForConditionalGeneration, device_map: dict[str, Any], files: Mapping[str, tuple[Path, torch.dtype]]
) -> None:
    """Let accelerate bring inputs, and offloaded weights, to the device that computes."""
    from accelerate import dispatch_model

    index = {
        name: {"safetensors_file": str(file), "weight_name": name, "dtype": str(dtype).removeprefix("torch.")}
        for name, (file, dtype) in files.items()
        if _device_of(name, device_map) == DISK
    }
    dispatch_model(
        model,
        device_map,
        main_device=str(_main_device(device_map)),
        offload_index=index or None,
        skip_keys=model._skip_keys_device_placement,
    )


def _compute_on_cpu(module: nn.Module) -> None:
    _require_accelerate()
    from accelerate.hooks import AlignDevicesHook, add_hook_to_module

    hook = AlignDevicesHook(execution_device="cpu", io_same_device=True, place_submodules=False)
    add_hook_to_module(module, hook)


def _require_accelerate() -> None:
    try:
        import accelerate  # noqa: F401
    except ImportError as error:
        raise MissingExtraError("accelerate", "train") from error
