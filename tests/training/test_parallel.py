"""Gathering and loading of optimizer states in one process; test_distributed.py compares DDP and FSDP2."""

import pytest
import torch
from torch import nn

from video_llama.training.parallel import (
    exchange_only,
    full_optimizer_state,
    full_tensor,
    load_optimizer_state,
    shard_like,
)


def make_optimizer(steps: int) -> torch.optim.AdamW:
    torch.manual_seed(0)
    layer = nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(layer.parameters(), lr=0.1)
    for _ in range(steps):
        layer(torch.ones(1, 3)).sum().backward()
        optimizer.step()
    return optimizer


def test_the_optimizer_state_is_restored() -> None:
    state = full_optimizer_state(make_optimizer(2))
    other = make_optimizer(1)
    load_optimizer_state(other, state)
    for index, entry in full_optimizer_state(other)["state"].items():
        assert all(torch.equal(value, state["state"][index][key]) for key, value in entry.items())
    assert full_optimizer_state(other, keeps=False)["state"] == {0: {}, 1: {}}


def test_the_state_of_another_optimizer_is_an_error() -> None:
    state = full_optimizer_state(torch.optim.AdamW([nn.Parameter(torch.zeros(2))]))
    with pytest.raises(ValueError, match="parameter group"):
        load_optimizer_state(make_optimizer(1), state)


def test_without_sharding_tensors_are_unchanged() -> None:
    tensor = torch.ones(2)
    assert full_tensor(tensor) is tensor
    assert shard_like(tensor, torch.zeros(2)) is tensor
    with exchange_only(nn.Linear(2, 2), is_wanted=False):
        pass
