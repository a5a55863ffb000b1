"""One row of the conformance report, and a guard that turns an exception into a failed row."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class Row:
    """``value``: the max relative error (<= ``limit`` passes) or, where ``limit`` is None, how many items differ.

    A case that could not be tried has no value, and is neither passed nor failed; ``note`` states what is missing.
    """

    case: str
    value: float | None
    limit: float | None = None
    note: str = ""

    @property
    def skipped(self) -> bool:
        return self.value is None

    @property
    def passed(self) -> bool:
        if self.value is None:
            return False
        return self.value <= self.limit if self.limit is not None else self.value == 0

    @property
    def failed(self) -> bool:
        return not self.passed and not self.skipped


def guarded(case: str, make: Callable[[], Iterable[Row]]) -> Iterator[Row]:
    """Yield the rows of a case. An exception of any kind becomes a failed row, so that the other cases still run."""
    try:
        yield from make()
    except Exception as e:
        text = " ".join(str(e).split())
        yield Row(case, 1, note=f"{type(e).__name__}: {text}")
