"""Helpers of the benchmarks: time, the line of a ratio, random weights, and reading files."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from pathlib import Path

import torch
from torch import Tensor

from video_llama.checkpoints.safetensors_writer import TensorSpec

BLOCK_BYTES = 2**24


def seconds_of(work: Callable[[], object]) -> float:
    """Return the wall time of one call, in seconds."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def least_seconds(runs: int, work: Callable[[], object]) -> float:
    """Return the shortest wall time of ``runs`` calls, in seconds."""
    return min(seconds_of(work) for _ in range(runs))


def read_seconds(paths: Iterable[Path]) -> float:
    """Return the time to read the files once into one buffer of 16 MB, in seconds."""
    buffer = memoryview(bytearray(BLOCK_BYTES))
    start = time.perf_counter()
    for path in paths:
        with path.open("rb", buffering=0) as file:
            while file.readinto(buffer):
                pass
    return time.perf_counter() - start


def random_tensor(spec: TensorSpec) -> Tensor:
    """Return a tensor of one row of small normal numbers, repeated, which is fast to create."""
    row = torch.randn(spec.shape[-1:] or (1,)).mul(0.02).to(spec.dtype)
    return row.expand(spec.shape).contiguous() if spec.shape else row[0]
