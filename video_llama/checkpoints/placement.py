"""What a caller says about a model's form and place, in words, checked and made whole."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from video_llama.checkpoints.tensors import StoredTensor
from video_llama.errors import CheckpointError

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from video_llama.models.placing import Placing

DTYPES = ("float32", "bfloat16", "float16")
BYTES_AT_ONCE = 2**24
"""How much of a file is mapped at a time where its tensors are converted: their pages count as ours until then."""

_STORED_NAMES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}

DtypeName: TypeAlias = "torch.dtype | str"
Dtypes: TypeAlias = "DtypeName | Mapping[str, DtypeName]"


def resolve_placing(
    stored: DtypeName,
    *,
    dtype: Dtypes | None = None,
    device: torch.device | str = "cpu",
    quantization: str | None = None,
    device_map: Mapping[str, Any] | str | None = None,
    max_memory: Mapping[Any, Any] | None = None,
    low_resource: bool = False,
) -> Placing:
    """How a model is to be held, from what was asked and the type that its folder says (``stored``).

    ``dtype`` None is ``stored``, save that float16 becomes float32 on a CPU (which has no fast float16). One type is
    for all parts but the Q-Formers, which are float32 beside a half-precision decoder as in the reference; a mapping
    sets single parts: vision, qformer, audio, decoder. ``low_resource`` is the reference's: the decoder in 8 bits, the
    ViT on the CPU. Raises ValueError for what cannot be.
    """
    import torch

    from video_llama.models.modeling_llama import QUANTIZATIONS
    from video_llama.models.placing import Placing

    device = torch.device(device)
    if low_resource:
        quantization = quantization or "int8"
    if quantization not in (None, *QUANTIZATIONS):
        raise ValueError(f"quantization is {quantization!r}. Choose {' or '.join(QUANTIZATIONS)}.")
    if isinstance(device_map, str) and device_map != "auto":
        raise ValueError(f"device_map is {device_map!r}. Give auto, or a mapping of module names to devices.")
    if max_memory is not None and device_map != "auto":
        raise ValueError('max_memory is for device_map="auto". Set that, or leave max_memory out.')
    if low_resource and device_map is not None:
        raise ValueError("low_resource places the parts itself. Leave device_map out.")
    return Placing(
        _part_dtypes(stored, dtype, device, is_vit_on_cpu=low_resource),
        quantization,
        device,
        device_map,  # type: ignore[arg-type]  # checked above
        max_memory,
        low_resource,
    )


def _part_dtypes(
    stored: DtypeName, asked: Dtypes | None, device: torch.device, *, is_vit_on_cpu: bool
) -> dict[Any, torch.dtype]:
    import torch

    from video_llama.models.placing import MODEL_PARTS

    given = dict(asked) if isinstance(asked, Mapping) else {}
    unknown = sorted(given.keys() - set(MODEL_PARTS))
    if unknown:
        raise ValueError(f"dtype has {', '.join(unknown)}. Its parts are {', '.join(MODEL_PARTS)}.")
    common = as_dtype(stored)
    if common is torch.float16 and device.type == "cpu":
        common = torch.float32
    if asked is not None and not isinstance(asked, Mapping):
        common = as_dtype(asked)
    dtypes = dict.fromkeys(MODEL_PARTS, common) | {"qformer": torch.promote_types(common, torch.float32)}
    if is_vit_on_cpu and common is torch.float16:
        dtypes["vision"] = torch.float32
    return dtypes | {part: as_dtype(value) for part, value in given.items()}


def as_dtype(dtype: DtypeName) -> torch.dtype:
    """The type of this name. Raises ValueError for another than DTYPES."""
    import torch

    if isinstance(dtype, torch.dtype):
        return dtype
    if dtype not in DTYPES:
        raise ValueError(f"dtype is {dtype!r}. Choose {', '.join(DTYPES)}.")
    named: torch.dtype = getattr(torch, dtype)
    return named


def torch_dtype(stored: str) -> torch.dtype | None:
    """The float type that safetensors calls so; None for what is none."""
    import torch

    return getattr(torch, _STORED_NAMES[stored]) if stored in _STORED_NAMES else None


def stored_values(stored: Mapping[str, StoredTensor], *, is_kept: bool) -> Iterator[tuple[str, Tensor]]:
    """Tensors of a folder, each a mapped part of its file.

    A mapping goes when its last tensor goes. What is kept shares one for each file; what is not comes in groups of
    BYTES_AT_ONCE, so that it leaves nothing behind. Raises CheckpointError for a file that cannot be read.
    """
    from safetensors import SafetensorError, safe_open

    for file, names in _groups(stored, sys.maxsize if is_kept else BYTES_AT_ONCE):
        try:
            with safe_open(file, framework="pt") as opened:
                for name in names:
                    yield name, opened.get_tensor(name)
        except (SafetensorError, OSError) as error:
            raise CheckpointError(f"{file}: the weights cannot be read ({error}). Copy the folder again.") from error


def _groups(stored: Mapping[str, StoredTensor], limit: int) -> Iterator[tuple[Path, list[str]]]:
    group: list[str] = []
    total = 0
    for name, tensor in sorted(stored.items(), key=lambda item: item[1].file):
        if group and (stored[group[0]].file != tensor.file or total + tensor.num_bytes > limit):
            yield stored[group[0]].file, group
            group, total = [], 0
        group.append(name)
        total += tensor.num_bytes
    if group:
        yield stored[group[0]].file, group
