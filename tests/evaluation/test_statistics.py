"""Intervals and the paired test."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from video_llama.evaluation.statistics import Count, bootstrap_interval, mcnemar_p, mean_score


@given(st.integers(0, 500), st.integers(1, 500))
def test_intervals_contain_the_accuracy(right: int, total: int) -> None:
    right = min(right, total)
    low, high = Count(right, total).interval
    assert 0 <= low <= Count(right, total).accuracy + 1e-12
    assert Count(right, total).accuracy - 1e-12 <= high <= 1
    assert high - low < 2 / total**0.5


def test_the_interval_without_counts_is_everything() -> None:
    assert Count(0, 0).interval == (0.0, 1.0)
    assert np.isnan(Count(0, 0).accuracy)


def test_wilson_interval_of_a_published_example() -> None:
    """Newcombe 1998, table I: 81 of 263 gives .2553 to .3662 with Wilson's method."""
    assert Count(81, 263).interval == pytest.approx((0.2553, 0.3662), abs=5e-5)


def test_the_bootstrap_interval_is_that_of_the_mean() -> None:
    values = np.random.default_rng(1).normal(10, 2, 400)
    low, high = bootstrap_interval(list(range(400)), mean_score(values))
    half = 1.96 * values.std() / 20
    assert (low, high) == pytest.approx((values.mean() - half, values.mean() + half), abs=0.05)
    assert (low, high) == bootstrap_interval(list(range(400)), mean_score(values))


def test_rows_of_one_medium_stay_together() -> None:
    """Ten copies of each row do not make the interval narrower."""
    values = np.random.default_rng(1).normal(10, 2, 40)
    copies = [value for value in values for _ in range(10)]
    groups = [index for index in range(40) for _ in range(10)]
    together = bootstrap_interval(groups, mean_score(copies))
    assert together == pytest.approx(bootstrap_interval(list(range(40)), mean_score(values)), abs=0.1)
    low, high = bootstrap_interval(list(range(400)), mean_score(copies))
    assert high - low < 0.5 * (together[1] - together[0])


@pytest.mark.parametrize(
    ("first", "second", "p"),
    [(0, 0, 1.0), (5, 5, 1.0), (0, 1, 1.0), (0, 10, 2 / 1024), (1, 9, 22 / 1024), (9, 1, 22 / 1024)],
)
def test_mcnemar(first, second, p) -> None:
    assert mcnemar_p(first, second) == pytest.approx(p)


def test_mcnemar_of_many_rows() -> None:
    assert mcnemar_p(5000, 5200) == pytest.approx(0.0487, abs=5e-4)
