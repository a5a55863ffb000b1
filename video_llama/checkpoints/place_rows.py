"""Rows of the media places ``<video>`` and ``<audio>`` in the decoder's two tables of tokens.

A decoder has V rows, one per token of its tokenizer. The places have the next two ids, V and V + 1. Their rows are the
mean of the V rows, so the logit of a place is the mean of the other logits and is never the largest. The model does not
read these rows: media tokens replace the places, and their logits are masked. They exist so that every id of a prompt
has a row, as programs around transformers require. Folders written by earlier versions have V rows.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from video_llama.checkpoints.completeness import EMBEDDING, OUTPUT
from video_llama.models.video_llama import VideoLlamaForConditionalGeneration

NUM_PLACES = 2
TOKEN_TABLES = (EMBEDDING, OUTPUT)
_ROWS_AT_A_TIME = 4096


def with_place_rows(table_VD: Tensor, num_tokens: int | None = None) -> Tensor:
    """Return the first ``num_tokens`` rows (default: all V) of a table [V, D] and two rows with their mean.

    The mean is computed in float32.
    """
    kept = table_VD[:num_tokens]
    total = torch.zeros(kept.shape[1], dtype=torch.float32, device=kept.device)
    for part in kept.split(_ROWS_AT_A_TIME):
        total += part.float().sum(dim=0)
    mean = (total / len(kept)).to(kept.dtype)
    return torch.cat([kept, mean.expand(NUM_PLACES, -1)])


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
    tied = config.tie_word_embeddings
    embedding, output = model.get_input_embeddings(), model.lm_head
    embedding.weight = nn.Parameter(with_place_rows(embedding.weight.detach()))  # type: ignore[arg-type]
    output.weight = nn.Parameter(embedding.weight if tied else with_place_rows(output.weight.detach()))  # type: ignore[arg-type]
    size = len(embedding.weight)  # type: ignore[arg-type]
    embedding.num_embeddings = output.out_features = size  # type: ignore[assignment]
    config.text_config.vocab_size = model.model.language_model.vocab_size = size
    model.tie_weights()
