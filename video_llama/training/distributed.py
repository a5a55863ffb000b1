"""torchrun's processes: who am I, what do we agree on. One process needs no set-up and pays nothing."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class World:
    """This process among all that train together."""

    rank: int
    size: int
    device: torch.device

    @property
    def is_main(self) -> bool:
        """Whether this process writes files and shows progress."""
        return self.rank == 0

    def sum(self, value: float) -> float:
        """The sum of a number over all processes."""
        if self.size == 1:
            return value
        total = torch.tensor(value, dtype=torch.float64, device=self.device)
        torch.distributed.all_reduce(total)
        return float(total)

    def barrier(self) -> None:
        """Wait for the others."""
        if self.size > 1:
            torch.distributed.barrier()


@contextmanager
def world(device: str) -> Iterator[World]:
    """Join torchrun's processes if there are any, and leave them at the end; a group that was joined before is kept.

    ``device`` "cuda" falls back to the CPU where there is no GPU.
    """
    size, rank = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("RANK", "0"))
    uses_gpu = device.startswith("cuda") and torch.cuda.is_available()
    local = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0"))) if uses_gpu else torch.device("cpu")
    if uses_gpu:
        torch.cuda.set_device(local)
    joins = size > 1 and not torch.distributed.is_initialized()
    if joins:
        torch.distributed.init_process_group("nccl" if uses_gpu else "gloo")
    try:
        yield World(rank, size, local)
    finally:
        if joins:
            torch.distributed.destroy_process_group()
