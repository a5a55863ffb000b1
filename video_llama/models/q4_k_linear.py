"""Linear layers with 4-bit weights in ggml's format Q4_K, computed by ggml (CPU).

A block of 256 weights of an output has eight groups of 32. A group has a 6-bit scale and a 6-bit minimum, which are
multiples of the block's float16 scales: w = level x (d x scale) - (dmin x minimum), 4.5 bits per weight in all.
``docs/log.md`` compares its speed and error with other 4-bit kernels.
"""

# O outputs, I inputs, S blocks of 256 inputs, N input vectors; 8 groups of 32 weights per block

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from video_llama.models.ggml import Q4_K_BYTES, Q4_K_WEIGHTS, ggml
from video_llama.models.int4_layout import INT4_LEVELS
from video_llama.models.packed_linear import KernelLinear, row_blocks, without_zeros

GROUPS, GROUP_WEIGHTS = 8, 32
LARGEST_SCALE = 63
_SCALE_BYTES = 12


class Q4KLinear(KernelLinear):
    """4-bit weights in the format Q4_K. Inputs are padded with zeros to a multiple of 256."""

    def __init__(self, in_features: int, out_features: int, dtype: torch.dtype) -> None:
        super().__init__(in_features, out_features)
        num_blocks = math.ceil(in_features / Q4_K_WEIGHTS)
        self._padding = (0, num_blocks * Q4_K_WEIGHTS - in_features)
        self.register_buffer("weight", torch.empty(out_features, num_blocks * Q4_K_BYTES, dtype=torch.uint8))
        self._dtype = dtype
        self.weight: Tensor

    def pack(self, weight_OI: Tensor, device: torch.device) -> None:
        ggml()  # an error before the work
        packed = torch.empty(self.weight.shape, dtype=torch.uint8)
        for rows, block_OI in row_blocks(weight_OI):
            packed[rows] = quantize(nn.functional.pad(block_OI.to(torch.float32, copy=True), self._padding))
        self.weight = packed.to(device)

    @property
    def compute_dtype(self) -> torch.dtype:
        return self._dtype

    def multiply(self, vectors_NI: Tensor) -> Tensor:
        vectors_NI = nn.functional.pad(vectors_NI.float(), self._padding)
        output_NO = ggml().multiply(vectors_NI, self.weight)
        # ggml's 8-bit vectors have no NaN and no infinity; the result must show them.
        return output_NO.add_(vectors_NI.sum(dim=1, keepdim=True), alpha=0).to(self._dtype)

    def unpacked(self) -> Tensor:
        weight_OI = torch.empty(self.out_features, self.in_features, dtype=self._dtype)
        for rows, block in row_blocks(self.weight):
            weight_OI[rows] = dequantize(block)[:, : self.in_features].to(self._dtype)
        return weight_OI


def quantize(weight_OI: Tensor) -> Tensor:
    """Return float32 weights [O, I] in the format Q4_K, uint8 [O, I / 256 * 144]. The weights are modified."""
    groups = weight_OI.unflatten(1, (-1, GROUPS, GROUP_WEIGHTS))
    low_OS8 = groups.amin(dim=3).clamp_(max=0)
    scale_OS8, minimum_OS8 = (groups.amax(dim=3) - low_OS8).div_(INT4_LEVELS), low_OS8.neg()
    d_OS1, dmin_OS1 = _block_scale(scale_OS8), _block_scale(minimum_OS8)
    is_tiny_OS1 = (d_OS1 == 0) & (scale_OS8.amax(dim=2, keepdim=True) != 0)
    dmin_OS1.masked_fill_(is_tiny_OS1, 0)  # weights whose scale is below the range of float16 become 0
    scale_OS8, minimum_OS8 = _six_bits(scale_OS8, d_OS1), _six_bits(minimum_OS8, dmin_OS1)
    groups.add_((minimum_OS8 * dmin_OS1.float())[..., None])
    groups.div_(without_zeros(scale_OS8 * d_OS1.float())[..., None]).round_().clamp_(0, INT4_LEVELS)
    levels = groups.to(torch.uint8).unflatten(2, (-1, 2))  # pairs of groups share bytes
    packed = torch.cat(
        [
            torch.cat([d_OS1, dmin_OS1], dim=2).view(torch.uint8),
            _pack_scales(scale_OS8.to(torch.uint8), minimum_OS8.to(torch.uint8)),
            (levels[:, :, :, 0] | levels[:, :, :, 1] << 4).flatten(2),
        ],
        dim=2,
    )
    return packed.flatten(1)


def dequantize(packed: Tensor) -> Tensor:
    """Return the weights [O, I], float32, of the format Q4_K."""
    blocks = packed.unflatten(1, (-1, Q4_K_BYTES))
    d_OS1, dmin_OS1 = blocks[..., :4].contiguous().view(torch.float16).float().split(1, dim=2)
    scale_OS8, minimum_OS8 = _unpack_scales(blocks[..., 4 : 4 + _SCALE_BYTES])
    levels = blocks[..., 4 + _SCALE_BYTES :].unflatten(2, (-1, GROUP_WEIGHTS))
    levels = torch.stack([levels & INT4_LEVELS, levels >> 4], dim=3).flatten(2, 3)
    weight = levels.float().mul_((scale_OS8 * d_OS1)[..., None]).sub_((minimum_OS8 * dmin_OS1)[..., None])
    return weight.flatten(1)


def _block_scale(values_OS8: Tensor) -> Tensor:
    """Return the unit of a block's scales or minima, float16 [O, S, 1]."""
    return values_OS8.amax(dim=2, keepdim=True).div_(LARGEST_SCALE).to(torch.float16)


def _six_bits(values_OS8: Tensor, unit_OS1: Tensor) -> Tensor:
    """Return the values as integers 0..63, in float32: multiples of the unit."""
    return values_OS8.div_(without_zeros(unit_OS1.float())).round_().clamp_(0, LARGEST_SCALE)


def _pack_scales(scale_OS8: Tensor, minimum_OS8: Tensor) -> Tensor:
    """Return the 12 bytes of eight scales and eight minima.

    The first four of both have a byte each, whose upper two bits are those of the last four.
    """
    first, last = scale_OS8.split(4, dim=2)
    first_min, last_min = minimum_OS8.split(4, dim=2)
    return torch.cat([first | last >> 4 << 6, first_min | last_min >> 4 << 6, last & 15 | (last_min & 15) << 4], dim=2)


def _unpack_scales(packed: Tensor) -> tuple[Tensor, Tensor]:
    scales, minima, both = packed.split(4, dim=2)
    last, last_min = both & 15 | scales >> 6 << 4, both >> 4 | minima >> 6 << 4
    return torch.cat([scales & LARGEST_SCALE, last], dim=2), torch.cat([minima & LARGEST_SCALE, last_min], dim=2)
