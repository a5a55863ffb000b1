"""Rows of the media places ``<video>`` and ``<audio>`` in the decoder's two tables of tokens.

A decoder has V rows, one per token of its tokenizer. The places have the next two ids, V and V + 1. The row of
``<video>`` is the mean of the V rows, that of ``<audio>`` the mean of their first half, so the logit of a place is a
mean of other logits and is never the largest. Media tokens replace the places, and the model masks their logits: the
values of the rows do not affect it. They exist so that every id of a prompt has a row of its own, as programs around
transformers require. Folders written by earlier versions have V rows.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from video_llama.checkpoints.completeness import EMBEDDING, OUTPUT
from video_llama.models.video_llama import VideoLlamaForConditionalGeneration

NUM_PLACES = 2
PLACE_TABLES = (EMBEDDING, OUTPUT)
_ROWS_AT_A_TIME = 4096


def with_place_rows(table_VD: Tensor, num_tokens: int | None = None) -> Tensor:
    """Return the first ``num_tokens`` rows (default: all V) of a table [V, D] and the rows of the two places.

    The means are computed in float32.
    """
    kept = table_VD[:num_tokens]
    half = len(kept) // 2
    first, second = _sum(kept[:half]), _sum(kept[half:])
    means = torch.stack([(first + second) / len(kept), first / half])
    return torch.cat([kept, means.to(kept.dtype)])


def _sum(rows_ND: Tensor) -> Tensor:
    total = torch.zeros(rows_ND.shape[1], dtype=torch.float32, device=rows_ND.device)
    for part in torch.split(rows_ND, _ROWS_AT_A_TIME):
        total += part.float().sum(dim=0)
    return total


def fit_table(table: Tensor, num_rows: int) -> Tensor:
    """Return a table of tokens with or without rows of the places, so that it has ``num_rows`` rows.

    A table of any other size is returned unchanged.
    """
    if len(table) == num_rows - NUM_PLACES:
        return with_place_rows(table)
    return table[:num_rows] if len(table) == num_rows + NUM_PLACES else table


def add_place_rows(model: VideoLlamaForConditionalGeneration) -> None:
    """Add the rows of the places to a model of the earlier layout, in place. A model that has them is not changed."""
    config = model.config
    if config.text_config.vocab_size > config.video_token_id:
        return
    embedding, output = model.model.language_model.embed_tokens, model.lm_head
    words, scores = embedding.weight.detach(), output.weight.detach()
    embedding.weight = nn.Parameter(with_place_rows(words))
    output.weight = embedding.weight if config.tie_word_embeddings else nn.Parameter(with_place_rows(scores))
    embedding.num_embeddings = output.out_features = len(embedding.weight)
    config.text_config.vocab_size = model.model.language_model.vocab_size = len(embedding.weight)
