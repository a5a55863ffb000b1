"""Compare two tensors as one row, and find the token ids of stored word embeddings."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from benchmarks.conformance_row import Row

LIMIT = 1e-5  # relative to the largest magnitude of the tensor, in float32; 5e-7 is typical


def apart(case: str, ours: Tensor, theirs: Tensor, note: str = "") -> Row:
    """Return the largest difference, relative to the largest magnitude of the reference tensor."""
    _check_shapes(ours, theirs)
    scale = float(theirs.abs().max())
    error = float((ours.detach() - theirs).abs().max())
    return Row(case, error / scale if scale else error, LIMIT, note)


def differing(case: str, ours: Tensor, theirs: Tensor, note: str = "") -> Row:
    """Count the integers that differ."""
    _check_shapes(ours, theirs)
    return Row(case, int((ours != theirs).sum()), note=note or f"{theirs.numel()} numbers")


def _check_shapes(ours: Tensor, theirs: Tensor) -> None:
    if ours.shape != theirs.shape:
        raise ValueError(f"ours has shape {list(ours.shape)}, the reference's {list(theirs.shape)}")


def ids_of(embeds_BLD: Tensor, table_VD: Tensor, placeholder: int) -> Tensor:
    """Return the ids [B, L] whose rows of the table equal the embeddings; ``placeholder`` for other embeddings."""
    known: dict[Any, int] = {}
    for index, row in enumerate(table_VD.detach().tolist()):
        known.setdefault(tuple(row), index)
    rows = embeds_BLD.flatten(0, 1).tolist()
    ids = torch.tensor([known.get(tuple(row), placeholder) for row in rows])
    return ids.view(embeds_BLD.shape[:2])
