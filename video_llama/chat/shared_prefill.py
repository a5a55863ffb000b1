"""Common beginnings of prompts are computed once: questions about one clip share its tokens and what precedes them."""

# B prompts, L prompt length, P prefix length, S length of the rest, D decoder width

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from video_llama.chat.cache import KeyValues
from video_llama.chat.decoding import last_logits
from video_llama.chat.engine import Engine, PreparedTurn
from video_llama.conversation import common_length


@dataclass(frozen=True)
class SharedPrefill:
    """The rest of some prompts, and the keys and values of what they begin with; the input of ``token_steps``."""

    embeds_BSD: Tensor
    mask_BL: Tensor
    """1 for the positions of each prompt, first in the cache and then in ``embeds_BSD``; 0 for padding."""
    cache: Any
    num_reused: list[int]
    """Per prompt, the number of tokens that were computed for another prompt of the batch."""


def shared_prefill(engine: Engine, turns: Sequence[PreparedTurn]) -> SharedPrefill:
    """Compute the common beginnings of the prompts about the same media, once each.

    Answers equal those of separate prompts up to rounding: only the order of some sums differs.
    """
    embeds_BLD, mask_BL = engine.embed(turns)
    prompts = [turn.prompt.input_ids for turn in turns]
    groups: dict[tuple[int, ...], list[int]] = {}
    for row, turn in enumerate(turns):
        groups.setdefault(tuple(map(id, turn.media)), []).append(row)
    shared = [0] * len(turns)
    for rows in groups.values():
        if len(rows) > 1:
            shortest = min(len(prompts[row]) for row in rows) - 1
            common = min([shortest, *(common_length(prompts[rows[0]], prompts[row]) for row in rows)])
            shared = [common if row in rows else length for row, length in enumerate(shared)]
    prefix = max(shared)
    if prefix == 0:
        return SharedPrefill(embeds_BLD, mask_BL, DynamicCache(), shared)
    rests = [len(prompt) - length for prompt, length in zip(prompts, shared, strict=True)]
    length = embeds_BLD.shape[1]
    computed: list[tuple[list[int], KeyValues]] = []
    for rows in groups.values():
        if shared[rows[0]]:
            row = rows[0]
            first = length - len(prompts[row])
            part_1PD = embeds_BLD[row : row + 1, first : first + shared[row]]
            cache: Any = DynamicCache()
            last_logits(engine.model, part_1PD, mask_BL.new_ones(part_1PD.shape[:2]), cache)
            computed.append((rows, [(layer.keys, layer.values) for layer in cache.layers]))
    pairs = [_stacked(len(turns), prefix, computed, layer) for layer in range(len(computed[0][1]))]
    mask_BL = torch.cat([_right_aligned(mask_BL, shared, prefix), _right_aligned(mask_BL, rests, max(rests))], dim=1)
    firsts = {rows[0] for rows in groups.values()}
    num_reused = [0 if row in firsts else count for row, count in enumerate(shared)]
    return SharedPrefill(embeds_BLD[:, length - max(rests) :], mask_BL, DynamicCache(pairs), num_reused)


def _stacked(
    num_rows: int, prefix: int, computed: Sequence[tuple[list[int], KeyValues]], layer: int
) -> tuple[Tensor, Tensor]:
    """Return keys and values [B, heads, P, width] of one layer, padded on the left with zeros."""

    def filled(which: int) -> Tensor:
        some = computed[0][1][layer][which]
        result = some.new_zeros(num_rows, some.shape[1], prefix, some.shape[3])
        for rows, pairs in computed:
            values = pairs[layer][which]
            result[rows, :, prefix - values.shape[2] :] = values
        return result

    return filled(0), filled(1)


def _right_aligned(like: Tensor, counts: Sequence[int], length: int) -> Tensor:
    """Return a mask [B, length] whose rows end with ``counts`` ones."""
    return torch.tensor(
        [[0] * (length - count) + [1] * count for count in counts], dtype=like.dtype, device=like.device
    )
