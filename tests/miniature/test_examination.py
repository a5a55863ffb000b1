"""What is asked and how it is counted: intervals, the plan, and marks for right and wrong answers."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from video_llama.miniature.examination import ABLATIONS, EXPLANATIONS, TARGETS, Count, plan, sort_of, tally
from video_llama.miniature.questions import grade
from video_llama.miniature.world import Scene, sample_scene


@pytest.fixture(scope="module")
def scenes() -> list[Scene]:
    rng = np.random.default_rng(0)
    return [sample_scene(rng, "test", sound=sort) for _ in range(20) for sort in ("matched", "mismatched", "silent")]


@given(st.integers(0, 500), st.integers(1, 500))
def test_intervals_hold_the_share(right: int, total: int) -> None:
    right = min(right, total)
    low, high = Count(right, total).interval
    assert 0 <= low <= Count(right, total).accuracy + 1e-12
    assert Count(right, total).accuracy - 1e-12 <= high <= 1
    assert high - low < 2 / total**0.5


def test_nothing_counted_tells_nothing() -> None:
    assert Count(0, 0).interval == (0.0, 1.0)
    assert np.isnan(Count(0, 0).accuracy)


def test_every_figure_is_asked_for(scenes: list[Scene]) -> None:
    asked = {metric for probe in plan(scenes, seed=1) for metric in probe.metrics}
    assert asked == {*EXPLANATIONS, *ABLATIONS}
    assert set(TARGETS) <= set(EXPLANATIONS)


def test_the_plan_follows_from_the_seed(scenes: list[Scene]) -> None:
    assert plan(scenes, 1) == plan(scenes, 1)
    assert plan(scenes, 1) != plan(scenes, 2)


def test_sounds_are_asked_about_where_there_are_any(scenes: list[Scene]) -> None:
    for probe in plan(scenes, seed=1):
        sort = sort_of(scenes[probe.clip])
        if "silence" in probe.metrics:
            assert sort == "silent"
            assert probe.qa.answer == "I hear no sound."
        for metric in probe.metrics:
            if metric in ("hear_matched", "hear_mismatched"):
                assert metric == f"hear_{sort}"
        if probe.ablation == "audio_replaced":
            assert scenes[probe.other].sounds != scenes[probe.clip].sounds


def test_right_answers_count_and_wrong_ones_do_not(scenes: list[Scene]) -> None:
    probes = plan(scenes, seed=1)
    right = tally(probes, (grade(probe.qa, probe.qa.answer) for probe in probes))
    assert all(count.right == count.total > 0 for count in right.values())
    wrong = tally(probes, (grade(probe.qa, "It is a purple whale.") for probe in probes))
    assert all(count.right == 0 for count in wrong.values())
