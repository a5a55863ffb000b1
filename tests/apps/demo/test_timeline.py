"""The timeline on the page: its HTML, and the answers of a visitor."""

from pathlib import Path

import pytest

from video_llama.apps.demo.timeline import clock_text, timeline_html
from video_llama.apps.demo.visitors import Visitors
from video_llama.chat import Decoding
from video_llama.errors import MediaError
from video_llama.processors.windows import WindowPlan

SHORT = Decoding(max_new_tokens=6)


@pytest.fixture
def visitor(talkative, reader, media):
    visitor = Visitors(talkative, reader, with_audio=True)["a"]
    visitor.add(media["first"])
    return visitor


def test_timeline_grows_window_by_window(talkative, visitor, media):
    plan = WindowPlan(1, 0.5)
    shown = list(visitor.timeline(visitor.media[0], "What?", plan, SHORT, with_summary=True))
    assert [(len(timeline.windows), count) for timeline, count in shown] == [*((n, 5) for n in range(1, 6)), (5, 5)]
    last, _ = shown[-1]
    expected = talkative.timeline(media["first"], "What?", window=1, stride=0.5, max_new_tokens=6)
    assert last.entries == expected.entries
    assert last.source == "first.mp4"
    assert last.summary is not None
    assert visitor.last_answer is None  # the conversation has no part in it


def test_stop(visitor):
    answers = visitor.timeline(
        visitor.media[0], "What?", WindowPlan(0.5), Decoding(max_new_tokens=500), with_summary=False
    )
    next(answers)
    visitor.stop()
    assert list(answers) == []


def test_too_many_windows(visitor):
    with pytest.raises(ValueError, match=r"the limit is 240\. Use longer windows and steps"):
        list(visitor.timeline(visitor.media[0], "What?", WindowPlan(0.01), SHORT, with_summary=False))


def test_image(talkative, reader, media):
    visitor = Visitors(talkative, reader, with_audio=True)["a"]
    visitor.add(media["image"])
    with pytest.raises(MediaError, match="is an image"):
        list(visitor.timeline(visitor.media[0], "What?", WindowPlan(1), SHORT, with_summary=False))


def test_html_is_escaped(talkative, media):
    timeline = talkative.timeline(media["first"], "<b>?", window=1.5, summary=True, max_new_tokens=6)
    html = timeline_html(Path('/tmp/a"<b>.mp4'), timeline, 4)
    assert "<b>" not in html
    assert "gradio_api/file=/tmp/a%22%3Cb%3E.mp4" in html
    assert "2 of 4 windows, 0:03" in html
    assert html.count("data-start=") == 2 * len(timeline.entries)
    sound = talkative.timeline(media["tone"], "What?", window=1.5, max_new_tokens=6)
    assert "<audio " in timeline_html(media["tone"], sound, 2)


def test_clock_text():
    assert [clock_text(seconds) for seconds in (0, 59.9, 61, 3725)] == ["0:00", "0:59", "1:01", "1:02:05"]
