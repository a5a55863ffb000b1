"""What the steps of the GPU benchmark share: the device, timing, the ceilings, and the results."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

Result = dict[str, Any]


@dataclass
class Bench:
    """The device, the size of the models, and what has been measured so far."""

    device: torch.device
    size: str
    is_tiny: bool
    bandwidth: float = 0.0
    """Bytes per second of a copy, read and written."""
    matrix_peak: float = 0.0
    """FLOP per second of a large matrix product in bfloat16."""
    shared: dict[str, Any] = field(default_factory=dict)
    """Objects that one step leaves for a later one."""

    @property
    def is_cuda(self) -> bool:
        return self.device.type == "cuda"

    def wait(self) -> None:
        """Wait until the device has finished."""
        if self.is_cuda:
            torch.cuda.synchronize()

    def seconds(self, work: Callable[[], object], *, runs: int = 5, warm_up: int = 2) -> float:
        """Return the median wall time of a call, in seconds."""
        runs, warm_up = (1, 1) if self.is_tiny else (runs, warm_up)
        for _ in range(warm_up):
            work()
        times = []
        for _ in range(runs):
            self.wait()
            start = time.perf_counter()
            work()
            self.wait()
            times.append(time.perf_counter() - start)
        return sorted(times)[len(times) // 2]

    def reset_peak(self) -> None:
        """Free unused memory and start measuring its peak."""
        gc.collect()
        if self.is_cuda:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()

    def peak(self) -> int | None:
        """Return the peak of allocated memory in bytes; None on a CPU."""
        return torch.cuda.max_memory_allocated() if self.is_cuda else None

    def share_of_matrix_peak(self, flop: float, seconds: float) -> float | None:
        return round(flop / seconds / self.matrix_peak, 3) if self.matrix_peak else None


def flop_of(work: Callable[[], object]) -> float:
    """Return the number of floating-point operations of a call, counted from shapes."""
    with FlopCounterMode(display=False) as counter:
        work()
    return float(counter.get_total_flops())
