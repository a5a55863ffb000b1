"""The windows of a duration."""

import itertools
import math

import pytest

from video_llama.processors.windows import MAX_WINDOWS, Window, WindowPlan


def starts_and_ends(plan: WindowPlan, start: float, end: float) -> list[tuple[float, float]]:
    return [(window.start, window.end) for window in plan.windows(start, end)]


@pytest.mark.parametrize(
    ("seconds", "stride", "end", "expected"),
    [
        (30, None, 60, [(0, 30), (30, 60)]),
        (30, None, 65, [(0, 30), (30, 60), (60, 65)]),  # a short window at the end
        (30, None, 62, [(0, 30), (30, 62)]),  # a rest of less than a tenth
        (30, 15, 60, [(0, 30), (15, 45), (30, 60)]),
        (30, 15, 61, [(0, 30), (15, 45), (30, 61)]),
        (10, 60, 125, [(0, 10), (60, 70), (120, 125)]),  # gaps
        (30, None, 8, [(0, 8)]),
    ],
)
def test_windows(seconds, stride, end, expected):
    assert starts_and_ends(WindowPlan(seconds, stride), 0, end) == expected


def test_start_of_the_segment():
    assert starts_and_ends(WindowPlan(10), 5, 25) == [(5, 15), (15, 25)]


@pytest.mark.parametrize("end", [0.35, 1.0, 59.96, 100.1, 3600.0])
@pytest.mark.parametrize("overlap", [1.0, 0.5, 0.3])
def test_windows_cover_everything(end, overlap):
    windows = WindowPlan(0.7, 0.7 * overlap).windows(0.0, end)
    assert windows[0].start == 0.0
    assert windows[-1].end == pytest.approx(end)
    for one, following in itertools.pairwise(windows):
        assert one.start < following.start <= one.end + 1e-6
        assert one.end < following.end


@pytest.mark.parametrize(("seconds", "stride"), [(0, None), (-1, None), (math.inf, None), (5, 0), (5, math.nan)])
def test_invalid_values(seconds, stride):
    with pytest.raises(ValueError, match="Give a positive number of seconds"):
        WindowPlan(seconds, stride)


def test_too_many_windows():
    with pytest.raises(ValueError, match=f"at most {MAX_WINDOWS:,} are allowed. Use a longer window"):
        WindowPlan(0.001).windows(0, 3600)


def test_windows_are_compared_by_value():
    assert Window(0, 1) == Window(0.0, 1.0)
