"""95 % intervals and paired tests.

Shares (correct answers) have Wilson's interval (Wilson 1927, doi:10.1080/01621459.1927.10502953), which treats rows as
independent. Means and corpus scores have a percentile bootstrap interval (Efron and Tibshirani 1993) over groups of
rows: the rows about one medium stay together, because their answers are not independent.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

import numpy as np

INTERVAL_Z = 1.96
"""Quantile of the normal distribution for a 95 % interval."""
NUM_RESAMPLES = 1000
BOOTSTRAP_SEED = 0

Interval = tuple[float, float]


@dataclass(frozen=True)
class Count:
    """Number of correct answers, with the accuracy and its 95 % interval."""

    right: int
    total: int

    @property
    def accuracy(self) -> float:
        return self.right / self.total if self.total else math.nan

    @property
    def interval(self) -> Interval:
        """Lower and upper bound of Wilson's 95 % interval; (0, 1) if ``total`` is 0."""
        if not self.total:
            return 0.0, 1.0
        share, z2 = self.accuracy, INTERVAL_Z**2
        centre = (share + z2 / (2 * self.total)) / (1 + z2 / self.total)
        half = INTERVAL_Z * math.sqrt(share * (1 - share) / self.total + z2 / (4 * self.total**2))
        half /= 1 + z2 / self.total
        return max(0.0, centre - half), min(1.0, centre + half)


def bootstrap_interval(
    groups: Sequence[Hashable], score: Callable[[np.ndarray], float], num_resamples: int = NUM_RESAMPLES
) -> Interval:
    """Return the 2.5 and 97.5 percentiles of ``score`` over resampled groups.

    Args:
        groups: the group of each row, such as its medium.
        score: the score of the rows with these weights [rows]: how often each row was drawn.
        num_resamples: number of resamples; the seed is fixed.
    """
    _, group_of_row = np.unique(np.array([repr(group) for group in groups]), return_inverse=True)
    num_groups = int(group_of_row.max()) + 1
    rng = np.random.default_rng(BOOTSTRAP_SEED)
    scores = [
        score(np.bincount(rng.integers(num_groups, size=num_groups), minlength=num_groups)[group_of_row])
        for _ in range(num_resamples)
    ]
    low, high = np.percentile(scores, (2.5, 97.5))
    return float(low), float(high)


def mean_score(values: Sequence[float]) -> Callable[[np.ndarray], float]:
    """Return the weighted mean of ``values`` as a function of the weights, for :func:`bootstrap_interval`."""
    array = np.asarray(values, dtype=np.float64)
    return lambda weights: float((array * weights).sum() / weights.sum())


def mcnemar_p(only_first: int, only_second: int) -> float:
    """Return the two-sided p-value of McNemar's exact test for paired answers.

    Args:
        only_first: number of rows that only the first run answers correctly.
        only_second: number of rows that only the second run answers correctly.
    """
    total, smaller = only_first + only_second, min(only_first, only_second)
    if total == 0:
        return 1.0
    log_half = total * math.log(2)
    tail = sum(math.exp(_log_binomial(total, count) - log_half) for count in range(smaller + 1))
    return min(1.0, 2 * tail)


def _log_binomial(total: int, count: int) -> float:
    return math.lgamma(total + 1) - math.lgamma(count + 1) - math.lgamma(total - count + 1)
