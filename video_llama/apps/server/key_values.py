"""Keys and values of prompts and of running answers, in buffers that are written in place.

transformers' ``DynamicCache`` copies all keys and values for each token. Here a prompt has a buffer of its length, and
the running answers share one in which each row begins at column 0 and has its own length.
"""

# R rows of the buffer, B rows in use, H key-value heads, C columns of the buffer, L columns in use, S new positions,
# W head width

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin

from video_llama.chat.cache import KeyValues
from video_llama.models.encoding_steps import Steps, run_steps

MANY_TOKENS = 256
"""Keys and values of at least this many tokens are copied one layer per step: first writes to new memory are slow."""


class _Layer(CacheLayerMixin):  # type: ignore[no-untyped-call]
    """What transformers requires of the layers below; ``num_columns`` is the number of positions before the call."""

    num_columns = 0
    keys: Any
    values: Any

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        raise AssertionError("buffers are created by their owners")

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.num_columns + query_length, 0

    def get_seq_length(self) -> int:
        return self.num_columns

    def get_max_length(self) -> int:
        return -1

    get_max_cache_shape = get_max_length  # its name in older versions of transformers


class _PromptLayer(_Layer):  # type: ignore[no-untyped-call]
    def __init__(self, capacity: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._capacity = capacity

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        self._append(key_states, value_states)
        return self.pair()

    def pair(self) -> tuple[Tensor, Tensor]:
        return self.keys[:, :, : self.num_columns], self.values[:, :, : self.num_columns]

    def _append(self, keys_1HSW: Tensor, values_1HSW: Tensor) -> None:
        if self.keys is None or self.values is None:
            self.keys, self.values = (_buffer(like, 1, self._capacity) for like in (keys_1HSW, values_1HSW))
            self.is_initialized = True
        end = self.num_columns + keys_1HSW.shape[2]
        self.keys[:, :, self.num_columns : end] = keys_1HSW
        self.values[:, :, self.num_columns : end] = values_1HSW
        self.num_columns = end


class PromptKeyValues(Cache):
    """The cache of one prompt of ``length`` tokens."""

    layers: list[Any]

    def __init__(self, num_layers: int, length: int) -> None:
        super().__init__(layers=[_PromptLayer(length) for _ in range(num_layers)])

    def begin_steps(self, prefix: KeyValues) -> Steps[None]:
        """Copy the keys and values of the prompt's beginning, layer by layer if they are long; none if it is new."""
        for layer, pair in zip(self.layers if prefix else [], prefix, strict=True):
            layer.update(*pair)
            if pair[0].shape[2] >= MANY_TOKENS:
                yield

    def key_values(self) -> KeyValues:
        """Return keys and values of the positions computed so far, [1, H, L, W] per layer, without copying them."""
        return [layer.pair() for layer in self.layers]


class _RowsLayer(_Layer):  # type: ignore[no-untyped-call]
    """``keys`` and ``values`` are [R, H, C, W]; the batch sets ``rows`` and ``columns`` [B] before each step."""

    rows: Tensor
    columns: Tensor

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        rows, columns = self.rows.to(key_states.device), self.columns.to(key_states.device)
        self.keys[rows, :, columns] = key_states[:, :, 0]
        self.values[rows, :, columns] = value_states[:, :, 0]
        num_rows, end = len(rows), self.num_columns + 1
        return self.keys[:num_rows, :, :end], self.values[:num_rows, :, :end]


class RowsKeyValues(Cache):
    """The cache of the running answers: row b has ``lengths[b]`` positions, and room for ``final_lengths[b]``.

    The buffer has ``max_rows`` rows at most, and ``max_tokens`` positions unless a row needs more.
    """

    layers: list[Any]

    def __init__(self, num_layers: int, max_rows: int, max_tokens: float = math.inf) -> None:
        super().__init__(layers=[_RowsLayer() for _ in range(num_layers)])  # type: ignore[no-untyped-call]
        self._max_rows, self.max_tokens = max_rows, max_tokens
        self._num_allocated = (0, 0)
        self._is_appending = False
        self._lengths_B = torch.zeros(0, dtype=torch.long)
        """``lengths`` on the device of the first layer, so that a step copies nothing to it."""
        self.lengths: list[int] = []
        self.final_lengths: list[int] = []

    @property
    def num_tokens(self) -> int:
        """Number of positions in the buffer, used or not."""
        return self._num_allocated[0] * self._num_allocated[1]

    def num_tokens_with(self, final_length: int) -> int:
        """Return the number of positions in the buffer after a row of this length has joined.

        The buffer grows by more than this row if ``max_tokens`` allows it.
        """
        rows, columns = self._size_with(final_length)
        return rows * columns

    def append(self, key_values: KeyValues, final_length: int) -> None:
        """Do all steps of :meth:`append_steps`."""
        run_steps(self.append_steps(key_values, final_length))

    def append_steps(self, key_values: KeyValues, final_length: int) -> Steps[None]:
        """Copy the keys and values of a prompt into a new row, layer by layer if they are long.

        Between the steps, rows can be decoded and removed, but not appended. The row exists after the last step.
        """
        length = key_values[0][0].shape[2]
        size = self._size_with(final_length)
        self._num_allocated, self._is_appending = size, True
        layer, row = 0, len(self.lengths)
        try:
            while layer < len(self.layers):
                self._copy(self.layers[layer], key_values[layer], row, size)
                layer += 1
                if length >= MANY_TOKENS and layer < len(self.layers):
                    yield
                    if row != len(self.lengths):  # rows have left: the new row is an earlier one
                        layer, row = 0, len(self.lengths)
        except BaseException:  # also the end of a generator that is not continued
            self._is_appending = False
            self._shrink()
            raise
        self._is_appending = False
        for each in self.layers:
            _hide(each, slice(row, row + 1), length, max(self.lengths, default=0))
        self.lengths.append(length)
        self.final_lengths.append(final_length)
        self._lengths_B = torch.tensor(self.lengths, device=key_values[0][0].device)

    def _copy(self, layer: Any, pair: tuple[Tensor, Tensor], row: int, size: tuple[int, int]) -> None:
        """Copy one layer's keys and values into a row of a buffer of at least ``size``."""
        length = pair[0].shape[2]
        if layer.keys is None or layer.keys.shape[0] < size[0] or layer.keys.shape[2] < size[1]:
            self._allocate(layer, size, pair)
        for buffer, new in zip((layer.keys, layer.values), pair, strict=True):
            buffer[row, :, :length] = new[0]
        _hide(layer, slice(row), max(self.lengths, default=0), length)

    def remove(self, row: int) -> None:
        """Remove a row. The last row takes its place."""
        last = len(self.lengths) - 1
        if row != last:
            length = self.lengths[last]
            end = max(self.lengths)
            for layer in self.layers:
                for buffer in (layer.keys, layer.values):
                    buffer[row, :, :length] = buffer[last, :, :length].clone()
                    buffer[row, :, length:end] = 0
            self.lengths[row], self.final_lengths[row] = self.lengths[last], self.final_lengths[last]
            self._lengths_B[row] = self._lengths_B[last]
        del self.lengths[last], self.final_lengths[last]
        self._lengths_B = self._lengths_B[:last]
        self._shrink()

    def begin_step(self, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Prepare one new position per row. Returns the additive mask [B, 1, 1, L] and the positions [B, 1].

        Both are on the device of the first layer.
        """
        lengths_B, num_columns = self._lengths_B, max(self.lengths)
        rows_B = torch.arange(len(lengths_B), device=lengths_B.device)
        for layer in self.layers:
            layer.rows, layer.columns, layer.num_columns = rows_B, lengths_B, num_columns
            for buffer in (layer.keys, layer.values):
                buffer[: len(lengths_B), :, num_columns] = 0
        is_hidden_BL = torch.arange(num_columns + 1, device=lengths_B.device) > lengths_B[:, None]
        mask_BL = torch.zeros_like(is_hidden_BL, dtype=dtype).masked_fill_(is_hidden_BL, torch.finfo(dtype).min)
        return mask_BL[:, None, None], lengths_B[:, None]

    def end_step(self) -> None:
        """Count the new positions."""
        self.lengths = [length + 1 for length in self.lengths]
        self._lengths_B = self._lengths_B + 1

    def _size_with(self, final_length: int) -> tuple[int, int]:
        """Return the rows and columns of the buffer with one more row."""
        num_rows, num_columns = len(self.lengths) + 1, max([final_length, *self.final_lengths])
        rows, columns = self._num_allocated
        if num_rows <= rows and num_columns <= columns:
            return rows, columns
        more_rows = max(num_rows, min(self._max_rows, 2 * rows if num_rows > rows else rows))
        return (num_rows if more_rows * num_columns > self.max_tokens else more_rows), num_columns

    def _shrink(self) -> None:
        """Release the buffer, or more than half of it, if it is not needed any more."""
        needed = (len(self.lengths), max(self.final_lengths, default=0))
        if self._is_appending:
            return
        if not self.lengths:
            for layer in self.layers:
                layer.keys = layer.values = None
            self._num_allocated = (0, 0)
        elif 4 * needed[0] * needed[1] <= self.num_tokens:
            for layer in self.layers:
                self._allocate(layer, needed, (layer.keys, layer.values))
            self._num_allocated = needed

    def _allocate(self, layer: Any, size: tuple[int, int], like: tuple[Tensor, Tensor]) -> None:
        """Move the rows of one layer into a new buffer, so that only one layer exists twice."""
        kept, end = len(self.lengths), max(self.lengths, default=0)
        new = [_buffer(each, *size) for each in like]
        if kept:
            for buffer, old in zip(new, (layer.keys, layer.values), strict=True):
                buffer[:kept, :, :end] = old[:kept, :, :end]
        layer.keys, layer.values = new
        layer.is_initialized = True


def _hide(layer: Any, rows: slice, first: int, end: int) -> None:
    """Set columns to zero. Attention reads masked columns too, and a NaN there would be the result."""
    for buffer in (layer.keys, layer.values):
        buffer[rows, :, first:end] = 0


def _buffer(like: Tensor, num_rows: int, num_columns: int) -> Tensor:
    """Return a buffer [R, H, C, W] that is not initialized: on a CPU, columns that are not used take no memory."""
    return like.new_empty(num_rows, like.shape[1], num_columns, like.shape[3])
