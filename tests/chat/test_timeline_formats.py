"""The formats of a timeline: exact texts, and what has a meaning in subtitle files."""

import json
from pathlib import Path

import av
import pytest

from video_llama.chat.timeline_formats import TimelineEntry, clock, render, timeline_format

ENTRIES = [
    TimelineEntry(0.0, 2.5, "A circle.", (0, 1)),
    TimelineEntry(2.5, 3723.4567, "a --> b <i> & c", (2,)),
    TimelineEntry(3800.0, 3801.0, "", (3,)),
]


def test_text():
    text = render("text", ENTRIES, "Two things.", dict)
    assert text == (
        "0:00:00.0 - 0:00:02.5  A circle.\n0:00:02.5 - 1:02:03.5  a --> b <i> & c\n"
        "1:03:20.0 - 1:03:21.0  (empty answer)\n\nSummary: Two things.\n"
    )


def test_srt():
    text = render("srt", ENTRIES, "Two things.", dict)
    assert text == ("1\n00:00:00,000 --> 00:00:02,500\nA circle.\n\n2\n00:00:02,500 --> 01:02:03,457\na -> b <i> & c\n")


def test_vtt():
    text = render("vtt", ENTRIES, "a-->b", dict)
    assert text == (
        "WEBVTT\n\nNOTE Summary: a->b\n\n00:00:00.000 --> 00:00:02.500\nA circle.\n\n"
        "00:00:02.500 --> 01:02:03.457\na --&gt; b &lt;i&gt; &amp; c\n"
    )


@pytest.mark.parametrize("name", ["srt", "vtt"])
def test_ffmpeg_reads_the_cues(tmp_path, name):
    path = tmp_path / f"a.{name}"
    path.write_text(render(name, ENTRIES, None, dict), encoding="utf-8")
    with av.open(str(path)) as container:
        stream = container.streams.subtitles[0]
        cues = [(p.pts * p.time_base, p.duration * p.time_base) for p in container.demux(stream) if p.size]
    assert [(float(start), float(start + length)) for start, length in cues] == [(0, 2.5), (2.5, 3723.457)]


def test_json():
    assert json.loads(render("json", ENTRIES, None, lambda: {"entries": [ENTRIES[0].as_dict()]})) == {
        "entries": [{"start": 0.0, "end": 2.5, "text": "A circle.", "windows": [0, 1]}]
    }


def test_formats_by_ending():
    assert [timeline_format(Path(f"a{end}")) for end in (".txt", ".JSON", ".srt", ".vtt")] == [
        "text",
        "json",
        "srt",
        "vtt",
    ]
    with pytest.raises(ValueError, match=r"a\.doc does not end in \.txt, \.json, \.srt, \.vtt"):
        timeline_format(Path("a.doc"))
    with pytest.raises(ValueError, match=r"format is .xml.\. Choose text, json, srt, vtt"):
        render("xml", ENTRIES, None, dict)


def test_clock_carries():
    assert clock(59.96) == "0:01:00.0"
    assert clock(3599.99) == "1:00:00.0"
