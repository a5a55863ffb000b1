"""Where a model is placed and in which data types: the caller's options, checked, and the resulting plan.

A model is first made on the meta device with its final shapes and types, so that its size is known before any tensor
is read. ``checkpoints/building.py`` fills it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias, get_args

import torch
from torch import Tensor, nn

from video_llama.errors import CheckpointError, MissingExtraError
from video_llama.models.configuration import VideoLlamaConfig
from video_llama.models.configuration_limits import BAD_VALUES, first_line
from video_llama.models.cpu import Processor, processor
from video_llama.models.modeling_llama import pack_linears, store_as_float16, store_as_int8
from video_llama.models.packed_linear import QUANTIZATIONS, Quantization
from video_llama.models.video_llama import VideoLlamaForConditionalGeneration

ModelPart = Literal["vision", "qformer", "audio", "decoder"]
MODEL_PARTS: tuple[ModelPart, ...] = get_args(ModelPart)
DTYPE_NAMES = ("float32", "bfloat16", "float16")
ENCODERS: tuple[ModelPart, ...] = ("vision", "audio")
VIT = "model.frame_encoder.vision_model"
DISK = "disk"

_PREFIXES: dict[str, ModelPart] = {
    f"{VIT}.": "vision",
    "model.imagebind_": "audio",
    "model.language_model.": "decoder",
    "lm_head.": "decoder",
}

DtypeName: TypeAlias = "torch.dtype | str"
Dtypes: TypeAlias = "DtypeName | Mapping[str, DtypeName]"
"""One data type, or a data type per model part (vision, qformer, audio, decoder)."""

DeviceMap = Mapping[str, "int | str | torch.device"]
"""Module name prefix -> device. "" is the whole model; the longest matching prefix applies."""


@dataclass(frozen=True)
class LoadOptions:
    """How a model is loaded: the keyword arguments of ``video_llama.load``."""

    device: torch.device | str = "cpu"
    """Device of the model and of its inputs."""
    dtype: Dtypes | None = None
    """Data type of the weights and of the computation. None keeps the stored type, except that float16 becomes float32
    on a CPU; see also ``is_for_inference``. A single type applies to every part but the Q-Formers, which stay in
    float32 with a half-precision decoder, as in the reference. A mapping sets single parts: vision, qformer, audio,
    decoder."""
    quantization: str | None = None
    """"int8", "int4" or "q4_k" (CPU, needs xllamacpp): quantize the linear layers of the decoder."""
    device_map: Mapping[str, Any] | str | None = None
    """"auto" spreads the model over all GPUs, memory and disk; a mapping assigns modules to devices."""
    max_memory: Mapping[Any, Any] | None = None
    """Memory limits for ``device_map="auto"``: GPU number or "cpu" -> bytes, or text such as "10GB"."""
    low_resource: bool = False
    """The reference's low-resource mode: the decoder in int8, the ViT on the CPU."""
    encoder_quantization: str | None = None
    """"int8": quantize the linear layers of the ViT and of ImageBind, and their inputs. x86 CPUs only."""
    interpolate_positions: bool = False
    """Allow more frames than ``max_frame_pos``; their positions are interpolated, which is outside of training."""
    is_for_inference: bool = False
    """The model only answers. On a CPU, half-precision parts whose ``dtype`` is not requested then get the form that is
    fastest there (``Placing.float16_parts``). Their weights cannot be trained or saved."""


@dataclass(frozen=True)
class Placing:
    """The data types, quantization and devices of a model. ``dtypes`` has a data type for each of MODEL_PARTS."""

    dtypes: Mapping[ModelPart, torch.dtype]
    """Data types of the parameters and of the arithmetic."""
    float16_parts: tuple[ModelPart, ...] = ()
    """Parts whose linear layers have float16 weights and float32 arithmetic (``fbgemm_linear.py``): bfloat16
    files on a CPU that would emulate bfloat16, and float16 files."""
    reason: str = ""
    """Why a part has another data type than the stored one, if the caller did not request it."""
    quantization: Quantization | None = None
    has_int8_encoders: bool = False
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    device_map: DeviceMap | Literal["auto"] | None = None
    """None places everything on ``device``; "auto" spreads the model over all GPUs, memory and disk."""
    max_memory: Mapping[int | str, int | str] | None = None
    """Memory limits for "auto", by GPU number or "cpu", in bytes or as "10GB"."""
    is_vit_on_cpu: bool = False
    """Run the ViT on the CPU, whatever ``device`` is."""

    def describe(self, config: VideoLlamaConfig) -> dict[str, str]:
        """Return part -> its weights and arithmetic, such as "float16 weights, float32 arithmetic", for the record."""
        parts = [part for part in MODEL_PARTS if part != "audio" or config.with_audio_branch]
        return {part: self._describe(part) for part in parts} | ({"reason": self.reason} if self.reason else {})

    def _describe(self, part: ModelPart) -> str:
        arithmetic = str(self.dtypes[part]).removeprefix("torch.")
        if part == "decoder" and self.quantization == "q4_k":
            return "q4_k weights, 8-bit inputs"
        if part == "decoder" and self.quantization is not None:
            return f"{self.quantization} weights, {arithmetic} arithmetic"
        if part in ENCODERS and self.has_int8_encoders:
            return "int8 weights and inputs"
        return f"float16 weights, {arithmetic} arithmetic" if part in self.float16_parts else arithmetic


def resolve_placing(stored: DtypeName, options: LoadOptions) -> Placing:
    """Check ``options`` and resolve them against ``stored``, the data type of the folder's config.

    Raises ValueError for unknown names and for options that exclude each other.
    """
    device = torch.device(options.device)
    quantization = options.quantization or ("int8" if options.low_resource else None)
    if quantization not in (None, *QUANTIZATIONS):
        raise ValueError(f"quantization is {quantization!r}. Choose int8, int4 or q4_k.")
    if isinstance(options.device_map, str) and options.device_map != "auto":
        raise ValueError(f'device_map is {options.device_map!r}. Use "auto" or a mapping of module names to devices.')
    if options.max_memory is not None and options.device_map != "auto":
        raise ValueError('max_memory requires device_map="auto". Set it, or remove max_memory.')
    if options.low_resource and options.device_map is not None:
        raise ValueError("low_resource sets the device of every part. Remove device_map.")
    dtypes = _part_dtypes(stored, options.dtype, device, is_vit_on_cpu=options.low_resource)
    float16_parts: tuple[ModelPart, ...] = ()
    reason = ""
    if options.is_for_inference and device.type == "cpu" and options.device_map is None:
        free = [part for part in MODEL_PARTS if not _is_requested(part, options.dtype)]
        dtypes, float16_parts, reason = _fast_forms(as_dtype(stored), dtypes, free, processor())
    if options.encoder_quantization is not None:
        _check_encoder_quantization(options, device)
        dtypes = dtypes | dict.fromkeys(ENCODERS, torch.float32)
        float16_parts = tuple(part for part in float16_parts if part not in ENCODERS)
    return Placing(
        dtypes,
        float16_parts,
        reason,
        quantization,
        options.encoder_quantization is not None,
        device,
        options.device_map,  # type: ignore[arg-type]  # checked above
        options.max_memory,
        options.low_resource,
    )


def _check_encoder_quantization(options: LoadOptions, device: torch.device) -> None:
    if options.encoder_quantization != "int8":
        raise ValueError(f"encoder_quantization is {options.encoder_quantization!r}. The only choice is int8.")
    requested = [part for part in ENCODERS if _is_requested(part, options.dtype)]
    if requested:
        raise ValueError(f"encoder_quantization excludes a data type for {requested[0]}. Set dtype for decoder only.")
    if device.type != "cpu" or options.device_map is not None or not processor().has_fbgemm:
        raise ValueError(
            f"encoder_quantization requires a model on an x86 CPU with AVX2, without device_map (device: {device}, "
            f"processor: {processor().name}). Remove it."
        )


def _is_requested(part: ModelPart, requested: Dtypes | None) -> bool:
    return part in requested if isinstance(requested, Mapping) else requested is not None


def _fast_forms(
    stored: torch.dtype, dtypes: Mapping[ModelPart, torch.dtype], free: Sequence[ModelPart], cpu: Processor
) -> tuple[dict[ModelPart, torch.dtype], tuple[ModelPart, ...], str]:
    """Return data types, parts with float16 weights, and the reason, for the parts that may be changed.

    float16 weights are exact for float16 files, and for bfloat16 files except that values below 2**-17 are rounded to
    multiples of 2**-24.
    """
    half = (torch.bfloat16, torch.float16)
    if stored not in half or (stored is torch.bfloat16 and cpu.has_bfloat16):
        return dict(dtypes), (), ""
    changed = [part for part in free if part != "qformer"]  # stored in float32
    widened: dict[ModelPart, torch.dtype] = {**dtypes, **dict.fromkeys(changed, torch.float32)}
    name = "bfloat16" if stored is torch.bfloat16 else "float16"
    reason = f"{cpu.name} has no {name} arithmetic"
    return widened, tuple(changed) if cpu.has_fbgemm else (), reason if changed else ""


def _part_dtypes(
    stored: DtypeName, requested: Dtypes | None, device: torch.device, *, is_vit_on_cpu: bool
) -> dict[ModelPart, torch.dtype]:
    by_part = dict(requested) if isinstance(requested, Mapping) else {}
    unknown = sorted(by_part.keys() - set(MODEL_PARTS))
    if unknown:
        raise ValueError(f"dtype has unknown parts: {', '.join(unknown)}. The parts are {', '.join(MODEL_PARTS)}.")
    common = as_dtype(stored)
    if common is torch.float16 and device.type == "cpu":
        common = torch.float32
    if requested is not None and not isinstance(requested, Mapping):
        common = as_dtype(requested)
    dtypes = dict.fromkeys(MODEL_PARTS, common) | {"qformer": torch.promote_types(common, torch.float32)}
    if is_vit_on_cpu and common is torch.float16:
        dtypes["vision"] = torch.float32
    return dtypes | {part: as_dtype(by_part[part]) for part in MODEL_PARTS if part in by_part}


def as_dtype(dtype: DtypeName) -> torch.dtype:
    """Return the torch dtype of a name in DTYPE_NAMES. Raises ValueError for any other name."""
    if isinstance(dtype, torch.dtype):
        return dtype
    if dtype not in DTYPE_NAMES:
        raise ValueError(f"dtype is {dtype!r}. Choose {', '.join(DTYPE_NAMES)}.")
    named: torch.dtype = getattr(torch, dtype)
    return named


def part_of(name: str) -> ModelPart:
    """Return the part of a tensor name; the Q-Formers, their queries, positions and projections are one part."""
    return next((part for prefix, part in _PREFIXES.items() if name.startswith(prefix)), "qformer")


def meta_model(config: VideoLlamaConfig, where: str = "config.json") -> VideoLlamaForConditionalGeneration:
    """Return the model on the meta device: every tensor has its shape and needs no memory.

    Raises CheckpointError, with ``where``, if the values of ``config`` do not make a model.
    """
    try:
        with torch.device("meta"):
            return VideoLlamaForConditionalGeneration(config)
    except BAD_VALUES as error:
        raise CheckpointError(
            f"{where}: the values do not make a model ({first_line(error)}). Correct them."
        ) from error


def empty_model(config: VideoLlamaConfig, placing: Placing) -> VideoLlamaForConditionalGeneration:
    """Return the model on the meta device, in evaluation mode, with the shapes and data types of ``placing``."""
    return set_form(meta_model(config), placing)


def set_form(model: VideoLlamaForConditionalGeneration, placing: Placing) -> VideoLlamaForConditionalGeneration:
    """Set the data types and packed layers of ``placing`` in a meta model, in place."""
    for name, parameter in list(model.named_parameters()):
        put_tensor(model, name, parameter.detach().to(placing.dtypes[part_of(name)]))
    if placing.quantization is not None:
        layers = model.model.language_model.layers
        pack_linears(layers, placing.quantization, placing.dtypes["decoder"], placing.device)
    if placing.float16_parts:
        linears = [name for name, module in model.named_modules() if type(module) is nn.Linear]
        is_tied = bool(model.config.tie_word_embeddings)
        chosen = [name for name in linears if part_of(f"{name}.") in placing.float16_parts]
        store_as_float16(model, [name for name in chosen if not (is_tied and name == "lm_head")])
    if placing.has_int8_encoders:
        linears = [name for name, module in model.named_modules() if type(module) is nn.Linear]
        store_as_int8(model, [name for name in linears if part_of(f"{name}.") in ENCODERS])
    model.tie_weights()
    model.eval()
    return model


def put_tensor(model: nn.Module, name: str, tensor: Tensor) -> None:
    """Set the parameter or buffer ``name`` to ``tensor`` itself, not a copy."""
    path, _, leaf = name.rpartition(".")
    owner = model.get_submodule(path)
    if leaf in owner._parameters:
        owner._parameters[leaf] = nn.Parameter(tensor)
    else:
        owner._buffers[leaf] = tensor


def resolve_device_map(model: VideoLlamaForConditionalGeneration, placing: Placing) -> dict[str, Any]:
    """Return module name prefix -> device for a meta model; "auto" is computed by accelerate.

    Raises ValueError if a quantized decoder would be offloaded to disk, MissingExtraError without accelerate.
    """
    if placing.device_map is None:
        vit = {VIT: "cpu"} if placing.is_vit_on_cpu else {}
        return {"": placing.device, **vit}
    require_accelerate()
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
            f"device_map would offload {on_disk[0]} to disk, which an {placing.quantization} decoder does not support. "
            "Raise max_memory, or load without quantization."
        )
    return chosen


def device_of(name: str, device_map: DeviceMap) -> Any:
    """Return the device of a tensor. Raises ValueError if no entry matches its name."""
    fitting = [prefix for prefix in device_map if prefix == "" or f"{name}.".startswith(f"{prefix}.")]
    if not fitting:
        raise ValueError(f"device_map has no entry for {name}. Add one, or an entry '' for everything else.")
    return device_map[max(fitting, key=len)]


def _without_nesting(module: nn.Module, name: str, device_map: DeviceMap) -> Iterator[tuple[str, Any]]:
    """Yield an equivalent map in which no entry contains another, as accelerate requires."""
    begin = f"{name}." if name else ""
    if not any(key.startswith(begin) and key != name for key in device_map):
        yield name, device_of(name, device_map)
        return
    for leaf, _ in [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]:
        yield f"{begin}{leaf}", device_of(f"{begin}{leaf}", device_map)
    for leaf, child in module.named_children():
        yield from _without_nesting(child, f"{begin}{leaf}", device_map)


def main_device(device_map: DeviceMap) -> torch.device:
    """Return the device that runs the computation: the first GPU of the map, else the CPU."""
    devices = [torch.device(device) for device in device_map.values() if device != DISK]
    return next((device for device in devices if device.type != "cpu"), torch.device("cpu"))


def require_accelerate() -> None:
    """Raise MissingExtraError unless accelerate is installed."""
    try:
        import accelerate  # noqa: F401
    except ImportError as error:
        raise MissingExtraError("accelerate", "train") from error
