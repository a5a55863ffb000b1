"""The order in which torch stores 4-bit weights for its CPU kernel, and products with the dequantized weights.

torch's order depends on the processor. It is found by packing indices, not assumed. On x86 processors it consists of
blocks of 32 or 64 outputs; a block has one piece of 16 or 32 bytes per input, and a byte has the levels of two outputs.
A panel is several such blocks, dequantized as [I, outputs]: it fits into the cache of a processor.
"""

# O outputs, I inputs, G groups of inputs with a common scale, g group size, N input vectors, P panel outputs

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

import torch
from torch import Tensor

INT4_LEVELS = 15
INT4_MIDDLE = 8
"""torch's kernel subtracts this from the stored levels 0..15 before scaling: w = (level - 8) * scale + offset."""

_INNER_TILES = 2
"""Argument of torch's packing function that is ignored on a CPU."""
_BLOCK_SIZES = (64, 32)
_PROBED_INPUTS = 32
ROWS_TOGETHER = 64
"""Largest number of outputs in a block."""
_PANEL_FLOATS = 2**21
_LOW_NIBBLES = 0x0F0F0F0F0F0F0F0F


def pack_levels(levels_OI: Tensor) -> Tensor:
    """Return the levels 0..15, int32 [O, I], in torch's order: uint8 [O, I / 2]."""
    return torch._convert_weight_to_int4pack_for_cpu(levels_OI, _INNER_TILES)


def has_panels(packed: Tensor) -> bool:
    """Return whether :func:`multiply_panels` supports these weights, uint8 [O, I / 2], and this processor.

    False for tensors without data, for which the order cannot be found.
    """
    return len(packed) % ROWS_TOGETHER == 0 and type(packed) is Tensor and _blocks() is not None


def multiply_panels(vectors_NI: Tensor, packed: Tensor, scale_and_offset: Tensor) -> Tensor:
    """Return the product of float32 vectors [N, I] and the dequantized weights, float32 [N, O].

    ``packed`` is uint8 [O, I / 2] in torch's order, ``scale_and_offset`` [G, O, 2].
    """
    output_NO = vectors_NI.new_empty(len(vectors_NI), len(packed))
    for outputs, panel_IP, order_P in _panels(packed, scale_and_offset):
        output_NO[:, outputs].index_copy_(1, order_P, vectors_NI @ panel_IP)
    return output_NO


def multiply_transposed_panels(vectors_NO: Tensor, packed: Tensor, scale_and_offset: Tensor) -> Tensor:
    """Return the product of float32 vectors [N, O] and the transposed dequantized weights, float32 [N, I]."""
    output_NI = vectors_NO.new_zeros(len(vectors_NO), 2 * packed.shape[1])
    for outputs, panel_IP, order_P in _panels(packed, scale_and_offset):
        output_NI.addmm_(vectors_NO[:, outputs][:, order_P], panel_IP.T)
    return output_NI


def unpack(packed: Tensor, scale_and_offset: Tensor, dtype: torch.dtype) -> Tensor:
    """Return the dequantized weights [O, I]; the arguments are those of :func:`multiply_panels`."""
    num_outputs, num_inputs = len(packed), 2 * packed.shape[1]
    weight_OI = torch.empty(num_outputs, num_inputs, dtype=dtype)
    if has_panels(packed):
        for outputs, panel_IP, order_P in _panels(packed, scale_and_offset):
            weight_OI[outputs].index_copy_(0, order_P, panel_IP.T.to(dtype).contiguous())
        return weight_OI
    for start in range(0, num_outputs, ROWS_TOGETHER):
        outputs = slice(start, start + ROWS_TOGETHER)
        block = packed[outputs]
        levels = torch.empty(len(block) * num_inputs)
        levels[_stored_order(len(block), num_inputs)] = _halves(block).float()
        groups_OGg = levels.view(len(block), len(scale_and_offset), -1) - INT4_MIDDLE
        scale_OG, offset_OG = scale_and_offset[:, outputs].float().permute(2, 1, 0)[..., None]
        weight_OI[outputs] = (groups_OGg * scale_OG + offset_OG).flatten(1).to(dtype)
    return weight_OI


def _panels(packed: Tensor, scale_and_offset: Tensor) -> Iterator[tuple[slice, Tensor, Tensor]]:
    """Yield panels: their outputs, the weights as float32 [I, P], and the output of each column, relative to the first.

    The weights are valid until the next panel.
    """
    blocks = _blocks()
    assert blocks is not None
    size, order = blocks
    num_inputs, num_groups = 2 * packed.shape[1], len(scale_and_offset)
    pieces = packed.view(-1, num_inputs, size // 2).view(torch.complex128)  # 16 bytes that are moved together
    limit = max(1, _PANEL_FLOATS // num_inputs // size)
    num_blocks = next(number for number in range(limit, 0, -1) if len(pieces) % number == 0)
    order_P = _panel_order(num_blocks, size, order)
    moved = torch.empty(num_inputs, num_blocks, pieces.shape[2], dtype=torch.complex128)
    both = moved.view(torch.int64).flatten(1)  # eight bytes, sixteen levels per element
    half, panel = torch.empty_like(both), torch.empty(num_inputs, 2, num_blocks * size // 2)
    for start in range(0, len(pieces), num_blocks):
        moved.copy_(pieces[start : start + num_blocks].transpose(0, 1))
        panel[:, 0].copy_(torch.bitwise_and(both, _LOW_NIBBLES, out=half).view(torch.uint8))
        torch.bitwise_right_shift(both, 4, out=half).bitwise_and_(_LOW_NIBBLES)
        panel[:, 1].copy_(half.view(torch.uint8))
        outputs = slice(start * size, (start + num_blocks) * size)
        pairs_GP2 = scale_and_offset[:, outputs].index_select(1, order_P).float()
        scale_GP, offset_GP = pairs_GP2.permute(2, 0, 1).contiguous()
        offset_GP.sub_(scale_GP, alpha=INT4_MIDDLE)
        panel.view(num_groups, -1, num_blocks * size).mul_(scale_GP[:, None]).add_(offset_GP[:, None])
        yield outputs, panel.view(num_inputs, -1), order_P


@lru_cache(maxsize=16)
def _panel_order(num_blocks: int, size: int, order: tuple[int, ...]) -> Tensor:
    """Return the output of each column of a panel: first the low halves of all blocks' bytes, then the high ones."""
    halves_2B = torch.tensor(order).view(size // 2, 2).T
    return (torch.arange(num_blocks)[:, None] * size + halves_2B[:, None]).flatten()


@lru_cache(maxsize=1)
def _blocks() -> tuple[int, tuple[int, ...]] | None:
    """Return the number of outputs of a block, and the output of each level of a piece. None for other orders."""
    order = _stored_order(ROWS_TOGETHER, _PROBED_INPUTS)
    for size in _BLOCK_SIZES:
        places = order.view(-1, _PROBED_INPUTS, size)  # block, input, level
        outputs, inputs = places // _PROBED_INPUTS, places % _PROBED_INPUTS
        first = torch.arange(0, ROWS_TOGETHER, size)[:, None, None]
        of_piece = outputs[0, 0]
        if torch.equal(inputs, torch.arange(_PROBED_INPUTS)[:, None].expand_as(inputs)) and torch.equal(
            outputs, (of_piece + first).expand_as(outputs)
        ):
            return size, tuple(of_piece.tolist())
    return None


def _halves(packed: Tensor) -> Tensor:
    """Return the two levels of every byte, in stored order: uint8 [2 x bytes]."""
    return torch.stack([packed & INT4_LEVELS, packed >> 4], dim=-1).flatten()


@lru_cache(maxsize=8)
def _stored_order(num_rows: int, num_columns: int) -> Tensor:
    """Return, for every level of a packed block in stored order, the flat index of its weight.

    The indices themselves are packed, four bits at a time.
    """
    indices = torch.arange(num_rows * num_columns).view(num_rows, num_columns)
    order = torch.zeros(num_rows * num_columns, dtype=torch.long)
    for shift in range(0, (num_rows * num_columns - 1).bit_length(), 4):
        digits = (indices >> shift & INT4_LEVELS).to(torch.int32)
        order |= _halves(pack_levels(digits)).long() << shift
    return order
