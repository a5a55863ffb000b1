"""Which frames are chosen: the reference's rules, and windows, rates and times."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from video_llama.errors import MediaError
from video_llama.processors.sampling import TIME_TOLERANCE_SECONDS, FrameSampling, choose_indices, frame_indices

NO_LIMIT = 10**9


def steady(num_frames: int, fps: float = 25.0) -> tuple[list[float], float]:
    return [k / fps for k in range(num_frames)], num_frames / fps


@st.composite
def frame_times(draw: st.DrawFn) -> tuple[list[float], float]:
    """Times of a video of any rate, in whole milliseconds, and its duration."""
    steps = draw(st.lists(st.integers(5, 500), min_size=1, max_size=60))
    times = np.concatenate([[0], np.cumsum(steps)]) / 1000
    return times[:-1].tolist(), float(times[-1])


@given(st.integers(1, 100_000), st.integers(1, 64))
def test_uniform_is_the_references_rule(total: int, asked: int) -> None:
    count = min(asked, total)
    expected = np.arange(0, total, total / count).astype(int).tolist()[:count]  # rounding may add an edge at the end
    assert len(expected) == count
    assert frame_indices(total, asked) == expected
    assert choose_indices(*steady(total), FrameSampling(asked), 64) == expected


def test_no_edge_behind_the_last_frame() -> None:
    """np.arange(0, 17, 17 / 7) has 8 edges, the last of them 17; np.arange(0, 1000, 1000 / 61) has 62, the last 999."""
    assert frame_indices(17, 7) == [0, 2, 4, 7, 9, 12, 14]
    assert len(frame_indices(1000, 61)) == 61


@given(st.integers(2, 100_000), st.integers(1, 64), st.integers(0, 2**32))
def test_headtail_takes_half_from_each_half(total: int, asked: int, seed: int) -> None:
    indices = frame_indices(total, asked, "headtail", seed)
    each = min(asked, total) // 2
    assert indices == sorted(set(indices))
    assert sum(index < total // 2 for index in indices) == each
    assert len(indices) == 2 * each
    assert indices == frame_indices(total, asked, "headtail", seed)


@given(frame_times(), st.integers(1, 32), st.floats(0, 20), st.floats(0.001, 20))
def test_a_window_is_sampled_by_the_same_rule(
    video: tuple[list[float], float], asked: int, start: float, length: float
) -> None:
    times, duration = video
    assume(start < duration)
    indices = choose_indices(times, duration, FrameSampling(asked, start=start, end=start + length), 32)
    tolerance = TIME_TOLERANCE_SECONDS
    end = min(start + length, duration)
    inside = [k for k, time in enumerate(times) if start - tolerance <= time < end - tolerance]
    if inside:
        assert indices == [inside[0] + index for index in frame_indices(len(inside), asked)]
    else:  # a window between two frames shows the one on screen
        assert indices == [max(k for k, time in enumerate(times) if time < start + tolerance)]


@given(frame_times(), st.lists(st.floats(0, 1), min_size=1, max_size=32))
def test_times_take_the_frames_on_screen(video: tuple[list[float], float], places: list[float]) -> None:
    times, duration = video
    asked = tuple(place * duration for place in places)
    indices = choose_indices(times, duration, FrameSampling(times=asked), 32)
    assert indices == sorted(
        {max(k for k, t in enumerate(times) if t <= time + TIME_TOLERANCE_SECONDS) for time in asked}
    )


@given(frame_times(), st.floats(0.05, 400), st.floats(0, 0.9))
def test_a_rate_takes_the_frames_on_screen_at_every_step(
    video: tuple[list[float], float], fps: float, place: float
) -> None:
    times, duration = video
    start = place * duration
    indices = choose_indices(times, duration, FrameSampling(fps=fps, start=start), NO_LIMIT)
    count = max(1, math.ceil((duration - start - TIME_TOLERANCE_SECONDS) * fps))
    asked = [start + step / fps + TIME_TOLERANCE_SECONDS for step in range(count)]
    # Where a step falls on a frame's time but for rounding, either neighbour is right.
    assume(all(abs(time - moment) > 1e-9 for time in times for moment in asked))
    assert indices == sorted({max(k for k, time in enumerate(times) if time <= moment) for moment in asked})


def test_a_rate_of_a_long_video_is_counted_in_its_window() -> None:
    times, duration = steady(100_000)
    indices = choose_indices(times, duration, FrameSampling(fps=1000.0, start=2.0, end=3.0), 32)
    assert indices == list(range(50, 75))
    assert choose_indices(times, duration, FrameSampling(fps=1e12, start=2.0, end=2.2), 32) == list(range(50, 55))


@given(st.integers(1, 100), st.integers(1, 100))
def test_more_frames_than_the_limit_are_refused(asked: int, limit: int) -> None:
    times, duration = steady(1000)
    if asked <= limit:
        assert len(choose_indices(times, duration, FrameSampling(asked), limit)) == asked
        return
    with pytest.raises(ValueError, match=rf"{asked} frames are requested, but the limit is {limit} \(max_frame_pos\)"):
        choose_indices(times, duration, FrameSampling(asked), limit)
    with pytest.raises(ValueError, match=rf"the limit is {limit}"):
        choose_indices(times, duration, FrameSampling(times=tuple(k / 25 for k in range(asked))), limit)


def test_the_remedy_for_too_high_a_rate_works() -> None:
    times, duration = steady(1000)
    with pytest.raises(MediaError, match=r"requires 80 frames, but the limit is 32.* Use fps=0\.8 or less"):
        choose_indices(times, duration, FrameSampling(fps=2.0), 32)
    assert len(choose_indices(times, duration, FrameSampling(fps=0.8), 32)) == 32


@pytest.mark.parametrize(
    ("sampling", "message"),
    [
        (FrameSampling(start=5.0), r"start is 5 s, but the video lasts 4\.00 s"),
        (FrameSampling(times=(1.0, 4.5)), r"times has 4\.5 s, but the video lasts 4\.00 s"),
        (FrameSampling(1, rule="headtail"), r"headtail selects no frame out of 100\. Use the rule uniform"),
    ],
)
def test_what_the_video_does_not_have(sampling: FrameSampling, message: str) -> None:
    with pytest.raises(MediaError, match=message):
        choose_indices(*steady(100), sampling, 32)


@pytest.mark.parametrize(
    "wrong",
    [
        {"num_frames": 0},
        {"fps": 0.0},
        {"fps": math.nan},
        {"fps": 1.0, "times": (1.0,)},
        {"times": ()},
        {"times": (-1.0,)},
        {"times": (math.inf,)},
        {"times": (1.0,), "start": 2.0},
        {"times": (1.0, 3.0), "end": 2.0},
        {"start": -0.1},
        {"start": 2.0, "end": 2.0},
        {"end": 0.0},
        {"rule": "middle"},
    ],
)
def test_arguments_that_cannot_be(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"(Use|Give|Choose) "):
        FrameSampling(**wrong)  # type: ignore[arg-type]


def test_counts_that_cannot_be() -> None:
    with pytest.raises(ValueError, match="Both must be 1 or more"):
        frame_indices(0, 8)
    with pytest.raises(ValueError, match="Choose uniform or headtail"):
        frame_indices(8, 8, "middle")  # type: ignore[arg-type]
