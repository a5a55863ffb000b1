"""Linear layers with 8-bit or 4-bit weights that compute in a floating-point type.

On a CPU they use torch's weight-only kernels (``_weight_int8pack_mm``, ``_weight_int4pack_mm_for_cpu``), FBGEMM's
(``fbgemm_linear.py``) or ggml's (``q4_k_linear.py``), on CUDA those of bitsandbytes (optional). A weight is quantized
block by block as it is read from the file, so the decoder never exists in memory in floating point. The weights are not
trained; gradients pass through to the inputs (adapters, Q-Formers).
"""

# O outputs, I inputs, G groups of inputs that share a scale (I / group size), g group size, N input vectors

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

import torch
from torch import Tensor, nn

from video_llama.errors import MissingExtraError
from video_llama.models.cpu import processor
from video_llama.models.int4_layout import (
    INT4_LEVELS,
    INT4_MIDDLE,
    ROWS_TOGETHER,
    has_panels,
    multiply_panels,
    multiply_transposed_panels,
    pack_levels,
    unpack,
)

Quantization = Literal["int8", "int4", "q4_k"]
QUANTIZATIONS: tuple[Quantization, ...] = ("int8", "int4", "q4_k")
TRAINING_QUANTIZATIONS: tuple[Quantization, ...] = ("int8", "int4")
"""Those of ``model.quantization`` in training."""

INT8_MAX = 127
GROUP_SIZES = (64, 32)
"""int4: numbers of inputs that share a scale. The first that divides the number of inputs is used; 64 was fastest."""
INT4_COMPUTE = torch.bfloat16
ROW_MULTIPLE = 16
"""int4: the number of outputs must be a multiple of this."""
INT8_INPUT_MULTIPLE = 16
"""For other numbers of inputs, torch's int8 kernel (2.13, bfloat16) reads out of bounds: wrong results, or a crash."""
INT4_UNPACK_FROM = 40
"""int4: from this number of vectors, dequantizing the weights is faster than torch's kernel (no bfloat16 units)."""
INT8_DEQUANTIZE_FROM = 16
"""int8: from this number of vectors, converting the weight and using the ordinary kernel is faster."""

_FLOATS_AT_ONCE = 2**18
"""Size of the blocks that are quantized. Larger temporaries are slower, and glibc does not return their memory."""


class PackedLinear(nn.Module):
    """A linear layer without bias and with an integer weight: created empty, filled by :meth:`pack`."""

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__()
        self.in_features, self.out_features = in_features, out_features

    def pack(self, weight_OI: Tensor, device: torch.device) -> None:
        """Quantize the floating-point weight [O, I] and store it on ``device``."""
        raise NotImplementedError


class KernelLinear(PackedLinear):
    """A packed layer for the CPU: torch's kernels for inference, the dequantized weight for training."""

    def multiply(self, vectors_NI: Tensor) -> Tensor:
        """[N, I] -> [N, O], in ``compute_dtype``. torch's kernels are not differentiable."""
        raise NotImplementedError

    def unpacked(self) -> Tensor:
        """Return the dequantized weight [O, I] in ``compute_dtype``."""
        raise NotImplementedError

    def exact_product(self, vectors_NI: Tensor) -> Tensor:
        """[N, I] -> [N, O] with the dequantized weight, for training."""
        return nn.functional.linear(vectors_NI, self.unpacked())

    def input_gradient(self, gradient_NO: Tensor) -> Tensor:
        """Return the gradient [N, I] of the inputs, given that of the outputs."""
        weight_OI = self.unpacked()
        return gradient_NO.to(weight_OI.dtype) @ weight_OI

    @property
    def compute_dtype(self) -> torch.dtype:
        """Data type of the scales and of the computation."""
        raise NotImplementedError

    def forward(self, inputs: Tensor) -> Tensor:
        """[..., I] -> [..., O], in ``compute_dtype``."""
        vectors_NI = inputs.reshape(-1, self.in_features).to(self.compute_dtype)
        needs_gradient = torch.is_grad_enabled() and vectors_NI.requires_grad
        output_NO = _Product.apply(vectors_NI, self) if needs_gradient else self.multiply(vectors_NI)
        return output_NO.reshape(*inputs.shape[:-1], self.out_features)


class _Product(torch.autograd.Function):
    """The product with the dequantized weight, for training. The weight is dequantized again in the backward pass."""

    @staticmethod
    def forward(ctx: Any, vectors_NI: Tensor, layer: KernelLinear) -> Tensor:
        ctx.layer = layer
        return layer.exact_product(vectors_NI)

    @staticmethod
    def backward(ctx: Any, gradient_NO: Tensor) -> tuple[Tensor, None]:
        return ctx.layer.input_gradient(gradient_NO), None


class Int8Linear(KernelLinear):
    """8-bit weights with one scale per output: w = q * scale."""

    def __init__(self, in_features: int, out_features: int, dtype: torch.dtype) -> None:
        super().__init__(in_features, out_features)
        self.register_buffer("weight", torch.empty(out_features, in_features, dtype=torch.int8))
        self.register_buffer("scale", torch.empty(out_features, dtype=dtype))
        self.weight: Tensor
        self.scale: Tensor

    def pack(self, weight_OI: Tensor, device: torch.device) -> None:
        levels_OI, scale_O = quantize_rows(weight_OI, self.scale.dtype)
        self.weight, self.scale = levels_OI.to(device), scale_O.to(device)

    @property
    def compute_dtype(self) -> torch.dtype:
        return self.scale.dtype

    def multiply(self, vectors_NI: Tensor) -> Tensor:
        is_slow = vectors_NI.dtype == torch.float32  # torch has no fast int8 kernel for float32
        if not is_slow and len(vectors_NI) < INT8_DEQUANTIZE_FROM and self.in_features % INT8_INPUT_MULTIPLE == 0:
            return torch._weight_int8pack_mm(vectors_NI, self.weight, self.scale)
        return nn.functional.linear(vectors_NI, self.weight.to(vectors_NI.dtype)).mul_(self.scale)

    def unpacked(self) -> Tensor:
        return self.weight.to(self.scale.dtype) * self.scale[:, None]


class Int4Linear(KernelLinear):
    """4-bit weights with a scale and an offset per group of inputs: w = (q - 8) * scale + offset.

    Products with few vectors are computed in bfloat16, whatever the data type of the inputs and outputs: torch's kernel
    for float32 took eight times as long (docs/log.md). With many vectors, on a processor without bfloat16 units, the
    weights are dequantized in parts and multiplied in float32.
    """

    def __init__(self, in_features: int, out_features: int, dtype: torch.dtype) -> None:
        super().__init__(in_features, out_features)
        self.group_size = _group_size(in_features, out_features)
        self.register_buffer("weight", torch.empty(out_features, in_features // 2, dtype=torch.uint8))
        groups = (in_features // self.group_size, out_features, 2)
        self.register_buffer("scale_and_offset", torch.empty(groups, dtype=INT4_COMPUTE))
        self._dtype = dtype
        self.weight: Tensor
        self.scale_and_offset: Tensor

    def pack(self, weight_OI: Tensor, device: torch.device) -> None:
        packed = torch.empty(self.weight.shape, dtype=torch.uint8)
        scales_GO2 = torch.empty(self.scale_and_offset.shape, dtype=self.scale_and_offset.dtype)
        for rows, block_OI in row_blocks(weight_OI):
            levels_OI, scales_GO2[:, rows] = self._levels(block_OI.to(torch.float32, copy=True))
            packed[rows] = pack_levels(levels_OI)
        self.weight, self.scale_and_offset = packed.to(device), scales_GO2.to(device)

    def _levels(self, block_OI: Tensor) -> tuple[Tensor, Tensor]:
        """Return the nearest of 16 levels for each weight, int32 [O, I], and scales and offsets [G, O, 2].

        ``block_OI`` is float32 and is modified.
        """
        dtype = self.scale_and_offset.dtype
        groups_OGg = block_OI.unflatten(1, (-1, self.group_size))
        low_OG, high_OG = groups_OGg.amin(dim=2), groups_OGg.amax(dim=2)
        scale_OG = ((high_OG - low_OG) / INT4_LEVELS).to(dtype)
        offset_OG = (low_OG + INT4_MIDDLE * scale_OG.float()).to(dtype)
        groups_OGg.sub_(offset_OG.float()[..., None]).div_(without_zeros(scale_OG.float())[..., None])
        groups_OGg.round_().add_(INT4_MIDDLE).clamp_(0, INT4_LEVELS)
        return block_OI.to(torch.int32), torch.stack([scale_OG.T, offset_OG.T], dim=-1)

    @property
    def compute_dtype(self) -> torch.dtype:
        return self._dtype

    def multiply(self, vectors_NI: Tensor) -> Tensor:
        if len(vectors_NI) >= INT4_UNPACK_FROM and self._uses_panels():
            return self.exact_product(vectors_NI)
        output_NO = torch._weight_int4pack_mm_for_cpu(
            vectors_NI.to(INT4_COMPUTE), self.weight, self.group_size, self.scale_and_offset
        )
        return output_NO.to(self._dtype)

    def unpacked(self) -> Tensor:
        return unpack(self.weight, self.scale_and_offset, self.compute_dtype)

    def exact_product(self, vectors_NI: Tensor) -> Tensor:
        if not self._uses_panels():
            return super().exact_product(vectors_NI)
        with _without_autocast():
            return multiply_panels(vectors_NI.float(), self.weight, self.scale_and_offset).to(self._dtype)

    def input_gradient(self, gradient_NO: Tensor) -> Tensor:
        if not self._uses_panels():
            return super().input_gradient(gradient_NO)
        with _without_autocast():
            return multiply_transposed_panels(gradient_NO.float(), self.weight, self.scale_and_offset).to(self._dtype)

    def _uses_panels(self) -> bool:
        return has_panels(self.weight) and not processor().has_bfloat16


class BitsAndBytesLinear(PackedLinear):
    """A packed layer for CUDA, by bitsandbytes: LLM.int8 for int8, NF4 for int4. Not tested here, for lack of a GPU."""

    def __init__(self, in_features: int, out_features: int, dtype: torch.dtype, quantization: Quantization) -> None:
        super().__init__(in_features, out_features)
        library = _bitsandbytes()
        sizes = (in_features, out_features)
        self.inner: Any = (
            library.nn.Linear8bitLt(*sizes, bias=False, has_fp16_weights=False)
            if quantization == "int8"
            else library.nn.Linear4bit(*sizes, bias=False, compute_dtype=dtype, quant_type="nf4")
        )
        self._dtype, self._quantization = dtype, quantization

    @property
    def weight(self) -> Tensor:
        """The library's weight; PEFT places adapters on its device."""
        weight: Tensor = self.inner.weight
        return weight

    def pack(self, weight_OI: Tensor, device: torch.device) -> None:
        library, weight_OI = _bitsandbytes(), weight_OI.to(self._dtype)
        self.inner.weight = (
            library.nn.Int8Params(weight_OI, requires_grad=False, has_fp16_weights=False)
            if self._quantization == "int8"
            else library.nn.Params4bit(weight_OI, requires_grad=False, quant_type="nf4")
        )
        self.inner.to(device)  # quantizes the weight

    def forward(self, inputs: Tensor) -> Tensor:
        """[..., I] -> [..., O]."""
        output: Tensor = self.inner(inputs.to(self._dtype))
        return output


def quantize_rows(weight_OI: Tensor, scale_dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Return the weight [O, I] as int8 levels, and their scales [O] in ``scale_dtype``; a row of zeros has scale 0."""
    levels_OI = torch.empty(weight_OI.shape, dtype=torch.int8)
    scale_O = torch.empty(len(weight_OI), dtype=scale_dtype)
    for rows, block_OI in row_blocks(weight_OI):
        block_OI = block_OI.to(torch.float32, copy=True)
        scale_O[rows] = block_OI.abs().amax(dim=1).div(INT8_MAX).to(scale_dtype)
        block_OI.div_(without_zeros(scale_O[rows].float())[:, None])
        levels_OI[rows] = block_OI.round_().clamp_(-INT8_MAX, INT8_MAX)
    return levels_OI, scale_O


def row_blocks(weight: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """Yield blocks of rows: a whole matrix of a 7B decoder would need 180 MB in float32, three times."""
    num_rows = max(_FLOATS_AT_ONCE // weight.shape[1] // ROWS_TOGETHER, 1) * ROWS_TOGETHER
    for start in range(0, len(weight), num_rows):
        rows = slice(start, start + num_rows)
        yield rows, weight[rows]


def _without_autocast() -> torch.autocast:
    return torch.autocast("cpu", enabled=False)


def without_zeros(scale: Tensor) -> Tensor:
    """Return the scale with 1 for 0: a row or group of equal weights has scale 0."""
    return scale.where(scale != 0, 1.0)


def _group_size(in_features: int, out_features: int) -> int:
    size = next((size for size in GROUP_SIZES if in_features % size == 0), None)
    if size is None or out_features % ROW_MULTIPLE:
        raise ValueError(
            f"int4 does not support a layer with {in_features} inputs and {out_features} outputs: they must be "
            f"multiples of {GROUP_SIZES[-1]} and {ROW_MULTIPLE}. Use int8."
        )
    return size


def _bitsandbytes() -> Any:
    try:
        import bitsandbytes  # type: ignore[import-not-found,unused-ignore]
    except ImportError as error:
        raise MissingExtraError("bitsandbytes", "quant") from error
    return bitsandbytes
