"""Linear layers with float16 or int8 weights and float32 inputs, by FBGEMM's kernels in torch (x86 CPUs).

The float16 kernel converts weights to float32 as it multiplies. The int8 kernel multiplies integers, so the inputs are
quantized too: as the sum of two 7-bit terms with one scale per vector, which leaves an error of at most 1/15,876 of the
vector's largest value. Outliers in the inputs are therefore harmless, and the result is that of the int8 weights.
Encoders, with a thousand vectors and more, gain only with one term, whose error is up to 1/126. ``docs/log.md`` has the
measurements.
"""

# O outputs, I inputs, N input vectors

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor

from video_llama.models.packed_linear import KernelLinear, quantize_rows

MAX_FLOAT16 = 65504.0
LEVELS = 63
"""Largest magnitude of a quantized input. 8-bit levels would overflow the 16-bit sums of processors without VNNI."""
ZERO_POINT = 64
"""The kernel's inputs are unsigned: a level is stored as level + ZERO_POINT."""


class Float16Linear(KernelLinear):
    """A linear layer with float16 weights, and float32 inputs and outputs. Exact for float16 weights."""

    def __init__(self, in_features: int, out_features: int, has_bias: bool) -> None:
        super().__init__(in_features, out_features)
        self.register_buffer("weight", torch.empty(out_features, in_features, dtype=torch.float16))
        self.weight: Tensor
        self.register_buffer("bias", torch.empty(out_features) if has_bias else None)
        self.bias: Tensor | None
        self._packed: Any = None
        self._factor = 1.0

    def pack(self, weight_OI: Tensor, device: torch.device) -> None:
        """Pack the weight [O, I]; larger values than float16 has are divided by a common factor."""
        wide_OI = weight_OI.to(torch.float32)
        largest = float(wide_OI.abs().max())
        if largest > MAX_FLOAT16:
            self._factor = largest / MAX_FLOAT16
            wide_OI = wide_OI / self._factor
        self._packed = torch.ops.quantized.linear_prepack_fp16(wide_OI, None)
        self.weight = torch.empty(0, dtype=torch.float16)

    @property
    def compute_dtype(self) -> torch.dtype:
        return torch.float32

    def multiply(self, vectors_NI: Tensor) -> Tensor:
        output_NO: Tensor = torch.ops.quantized.linear_dynamic_fp16(vectors_NI.contiguous(), self._packed)
        if self._factor != 1.0:
            output_NO.mul_(self._factor)
        return output_NO if self.bias is None else output_NO.add_(self.bias)

    def unpacked(self) -> Tensor:
        weight_OI, _ = torch.ops.quantized.linear_unpack_fp16(self._packed)
        return weight_OI.float() * self._factor  # type: ignore[no-any-return]


class FbgemmInt8Linear(KernelLinear):
    """A linear layer with int8 weights, one scale per output, for inputs of any floating-point type.

    ``num_terms`` 1 quantizes the inputs to one 7-bit term, 2 to the sum of two.
    """

    def __init__(
        self, in_features: int, out_features: int, dtype: torch.dtype, has_bias: bool = False, num_terms: int = 2
    ) -> None:
        super().__init__(in_features, out_features)
        self.num_terms = num_terms
        self.register_buffer("bias", torch.empty(out_features) if has_bias else None)
        self.bias: Tensor | None
        self.register_buffer("weight", torch.empty(out_features, in_features, dtype=torch.int8))
        self.register_buffer("scale", torch.empty(out_features, dtype=torch.float32))
        self.weight: Tensor
        self.scale: Tensor
        self._packed: Any = None
        self._dtype = dtype

    def pack(self, weight_OI: Tensor, device: torch.device) -> None:
        levels_OI, scale_O = quantize_rows(weight_OI, torch.float32)
        scale_O[scale_O == 0] = 1.0
        zeros_O = torch.zeros(len(levels_OI), dtype=torch.long)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch announces that its quantized tensors will be replaced
            quantized = torch._make_per_channel_quantized_tensor(levels_OI, scale_O.double(), zeros_O, 0)
            self._packed = torch.ops.quantized.linear_prepack(quantized, None)
        self.weight, self.scale = torch.empty(0, dtype=torch.int8), scale_O

    @property
    def compute_dtype(self) -> torch.dtype:
        return self._dtype

    def multiply(self, vectors_NI: Tensor) -> Tensor:
        vectors_NI = vectors_NI.float()
        largest_N1 = torch.linalg.vector_norm(vectors_NI, torch.inf, dim=1, keepdim=True).clamp_min_(1e-30)
        levels_NI = vectors_NI * (LEVELS / largest_N1)
        sums_NO = self._rounded_product(levels_NI) if self.num_terms == 1 else self._two_term_product(levels_NI)
        output_NO = sums_NO.mul_(largest_N1 / LEVELS)
        if self.bias is not None:
            output_NO.add_(self.bias)
        return output_NO.to(self._dtype)

    def _two_term_product(self, levels_NI: Tensor) -> Tensor:
        num_vectors = len(levels_NI)
        terms = torch.empty(2 * num_vectors, self.in_features)
        coarse_NI, fine_NI = terms[:num_vectors], terms[num_vectors:]
        torch.round(levels_NI, out=coarse_NI)
        torch.sub(levels_NI, coarse_NI, out=fine_NI).mul_(2 * LEVELS)
        sums = self._rounded_product(terms)
        return sums[:num_vectors].add_(sums[num_vectors:], alpha=1 / (2 * LEVELS))

    def _rounded_product(self, levels: Tensor) -> Tensor:
        """Return the product of the rounded levels [N, I] and the weight, float32 [N, O]."""
        product: Tensor = torch.ops.quantized.linear_with_input_q_dq_qweight_dq_output_fp32(
            levels, 1.0, ZERO_POINT, self._packed
        )
        return product

    def unpacked(self) -> Tensor:
        quantized, _ = torch.ops.quantized.linear_unpack(self._packed)
        return (quantized.int_repr().float() * self.scale[:, None]).to(self._dtype)  # type: ignore[no-any-return]
