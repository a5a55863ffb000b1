"""Divide a long medium into windows: fixed ones with a stride, or the parts between scene cuts.

In: the duration of a medium in seconds. Out: ``Window`` objects in the order of their starts.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

MIN_REST = 0.1
"""A rest at the end that is shorter than this share of a window belongs to the window before it."""
MAX_WINDOWS = 20_000
"""Largest number of windows of one medium."""
DECIMALS = 6
"""Decimals of the times, so that k x stride has no rounding error."""


@dataclass(frozen=True)
class Window:
    """A part of a medium, in seconds from its first frame (of sound files: its first sample); ``end`` is excluded."""

    start: float
    end: float


@dataclass(frozen=True)
class WindowPlan:
    """How a medium is divided. Raises ValueError for invalid values."""

    seconds: float = 30.0
    """Length of a window."""
    stride: float | None = None
    """Seconds from the start of a window to that of the next one; None is the length of a window. A longer stride
    leaves gaps between the windows, a shorter one makes them overlap."""

    def __post_init__(self) -> None:
        for name, value in (("window", self.seconds), ("stride", self.stride)):
            if value is not None and not (value > 0 and math.isfinite(value)):
                raise ValueError(f"{name} is {value:g}. Give a positive number of seconds.")

    def as_dict(self) -> dict[str, Any]:
        """Return the plan for records."""
        return {"window": self.seconds, "stride": self.seconds if self.stride is None else self.stride}

    def windows(self, start: float, end: float) -> list[Window]:
        """Return the windows from ``start`` to ``end``, at least one.

        The last window ends at ``end``, so it can be shorter; a rest of less than a tenth of a window is added to the
        window before. With gaps, nothing is added. Raises ValueError for more than MAX_WINDOWS windows.
        """
        stride = self.seconds if self.stride is None else self.stride
        length = end - start
        if length / stride > MAX_WINDOWS:
            raise ValueError(
                f"A stride of {stride:g} s gives {length / stride:,.0f} windows in {length:.1f} s; at most "
                f"{MAX_WINDOWS:,} are allowed. Use a longer window and stride, or a segment (start, end)."
            )
        if length <= self.seconds:
            return [Window(start, end)]
        if stride > self.seconds:
            firsts = [start + k * stride for k in range(math.ceil(round(length / stride, DECIMALS)))]
        else:
            steps = (length - self.seconds * (1 + MIN_REST)) / stride
            firsts = [start + k * stride for k in range(max(0, math.ceil(round(steps, DECIMALS))) + 1)]
        windows = [_window(first, min(first + self.seconds, end)) for first in firsts]
        if stride <= self.seconds:
            windows[-1] = _window(windows[-1].start, end)
        return windows


def _window(start: float, end: float) -> Window:
    return Window(round(start, DECIMALS), round(end, DECIMALS))
