"""Merging of the answers about windows."""

import itertools

import pytest

from video_llama.chat.timeline import merge
from video_llama.processors.windows import Window, WindowPlan


def merged(*answers: tuple[float, float, str]) -> list[tuple[float, float, str, tuple[int, ...]]]:
    entries = merge([(Window(start, end), text) for start, end, text in answers])
    return [(entry.start, entry.end, entry.text, entry.windows) for entry in entries]


def test_overlaps_are_cut_at_their_middle():
    assert merged((0, 10, "a"), (6, 16, "b"), (12, 20, "c")) == [
        (0, 8, "a", (0,)),
        (8, 14, "b", (1,)),
        (14, 20, "c", (2,)),
    ]


def test_neighbours_with_the_same_answer_become_one():
    assert merged((0, 10, "a"), (10, 20, " a\n"), (20, 30, "b"), (30, 35, "a")) == [
        (0, 20, "a", (0, 1)),
        (20, 30, "b", (2,)),
        (30, 35, "a", (3,)),
    ]


def test_gaps_separate_entries():
    assert merged((0, 10, "a"), (60, 70, "a")) == [(0, 10, "a", (0,)), (60, 70, "a", (1,))]


@pytest.mark.parametrize("stride", [0.2, 0.5, 0.9, 1.0])
def test_entries_follow_each_other_without_gaps_or_overlaps(stride):
    windows = WindowPlan(3.0, 3.0 * stride).windows(2.0, 21.3)
    entries = merge([(window, str(number)) for number, window in enumerate(windows)])
    assert [entry.windows for entry in entries] == [(number,) for number in range(len(windows))]
    assert (entries[0].start, entries[-1].end) == (2.0, 21.3)
    for one, following in itertools.pairwise(entries):
        assert one.end == following.start > one.start


def test_no_windows():
    assert merge([]) == []
