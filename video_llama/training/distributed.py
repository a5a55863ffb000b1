"""The processes of torchrun: rank, size, device, and collective operations. A single process needs no setup."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class World:
    """The rank, the number of processes, and the device of this process."""

    rank: int
    size: int
    device: torch.device

    @property
    def is_main(self) -> bool:
        """Whether this process writes files and shows progress (rank 0)."""
        return self.rank == 0

    def sum(self, value: float) -> float:
        """Return the sum of a number over all processes. Collective: every process must call it."""
        if self.size == 1:
            return value
        total = torch.tensor(value, dtype=torch.float64, device=self.device)
        torch.distributed.all_reduce(total)
        return float(total)

    def barrier(self) -> None:
        """Wait for all processes."""
        if self.size > 1:
            torch.distributed.barrier()


@contextmanager
def world(device: str) -> Iterator[World]:
    """Initialize the process group of torchrun, if any, and destroy it at the end. An existing group is reused.

    ``device`` "cuda" falls back to the CPU if no GPU is available.
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
