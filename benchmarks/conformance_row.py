"""One line of the conformance report."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Row:
    """``value`` is the max relative error (a number <= ``limit`` passes) or, where ``limit`` is None, how many items differ."""

    case: str
    value: float
    limit: float | None = None
    note: str = ""

    @property
    def passed(self) -> bool:
        return self.value <= self.limit if self.limit is not None else self.value == 0
