"""Replace linear layers by packed ones.

Of the decoder, only the linear layers in its blocks are quantized; embeddings, norms and the output head keep their
data type, as in the reference's 8-bit mode. The packed layers and their kernels are in ``packed_linear.py`` and, for
x86 processors, ``fbgemm_linear.py``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import nn

from video_llama.models.cpu import processor
from video_llama.models.fbgemm_linear import FbgemmInt8Linear, Float16Linear
from video_llama.models.packed_linear import (
    BitsAndBytesLinear,
    Int4Linear,
    Int8Linear,
    KernelLinear,
    PackedLinear,
    Quantization,
)
from video_llama.models.q4_k_linear import Q4KLinear


def pack_linears(decoder: nn.Module, quantization: Quantization, dtype: torch.dtype, device: torch.device) -> None:
    """Replace the linear layers of a decoder on the meta device with empty packed layers for ``device``.

    Raises ValueError for a layer with a bias, a size that the int4 kernel does not support, and a device other than
    CPU and, except for q4_k, CUDA; MissingExtraError for CUDA without bitsandbytes, and for q4_k without xllamacpp.
    """
    if quantization == "q4_k" and device.type != "cpu":
        raise ValueError(f"q4_k is supported on cpu, not on {device}. Use int4.")
    if device.type not in ("cpu", "cuda"):
        raise ValueError(f"{quantization} is supported on cpu and cuda, not on {device}. Load without quantization.")
    linears = [(name, module) for name, module in decoder.named_modules() if type(module) is nn.Linear]
    for name, linear in linears:
        if "bias" in dict(linear.named_parameters()):
            raise ValueError(f"{name} has a bias, which quantized layers do not support. Load without quantization.")
        sizes = (linear.in_features, linear.out_features)
        packed: PackedLinear
        with torch.device("meta"):
            if device.type == "cuda":
                packed = BitsAndBytesLinear(*sizes, dtype, quantization)
            elif quantization == "q4_k":
                packed = Q4KLinear(*sizes, dtype)
            elif quantization == "int4":
                packed = Int4Linear(*sizes, dtype)
            else:
                packed = FbgemmInt8Linear(*sizes, dtype) if processor().has_fbgemm else Int8Linear(*sizes, dtype)
        decoder.set_submodule(name, packed)


def store_as_float16(model: nn.Module, names: Sequence[str]) -> None:
    """Replace the named linear layers of a model on the meta device by ``Float16Linear``."""
    for name in names:
        linear = cast("nn.Linear", model.get_submodule(name))
        with torch.device("meta"):
            packed = Float16Linear(linear.in_features, linear.out_features, linear.bias is not None)
        model.set_submodule(name, packed)


def unpack_linears(decoder: nn.Module, dtype: torch.dtype) -> None:
    """Replace packed layers on the CPU with linear layers that have the dequantized weights in ``dtype``."""
    for name, module in list(decoder.named_modules()):
        if isinstance(module, KernelLinear):
            with torch.device("meta"):
                linear = nn.Linear(module.in_features, module.out_features, bias=False)
            linear.weight = nn.Parameter(module.unpacked().to(dtype))
            decoder.set_submodule(name, linear)


def is_packed(model: nn.Module) -> bool:
    """Return whether a model has quantized layers."""
    return any(isinstance(module, PackedLinear) for module in model.modules())


def store_as_int8(model: nn.Module, names: Sequence[str]) -> None:
    """Replace the named linear layers of encoders on the meta device by ``FbgemmInt8Linear`` with one-term inputs."""
    for name in names:
        linear = cast("nn.Linear", model.get_submodule(name))
        sizes, has_bias = (linear.in_features, linear.out_features), linear.bias is not None
        with torch.device("meta"):
            packed = FbgemmInt8Linear(*sizes, torch.float32, has_bias, num_terms=1)
        model.set_submodule(name, packed)
