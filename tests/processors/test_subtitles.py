"""Subtitles from SubRip and WebVTT files and from tracks; each malformed file is an error with its line."""

from pathlib import Path

import av
import pytest

from tests.factories.media import Clip, write_clip
from video_llama.errors import MediaError
from video_llama.processors.subtitles import Cue, Subtitles, read_subtitles, subtitled_question

SRT = """\ufeff1
00:00:00,500 --> 00:00:01,500
<i>Hello</i> {\\an8}there

2
00:00:01,000 --> 01:00:02,25 X1:10 X2:20
Two
lines &amp; more

"""
VTT = """WEBVTT - a title
Kind: captions

STYLE
::cue { color: red }

NOTE a comment
over two lines

first
00:00.500 --> 00:01.500 align:start
<v Ann>Hello there

00:01.000 --> 01:00:02.250
Two lines &lt;3
"""
HELLO = Cue(0.5, 1.5, "Hello there")


def write(path: Path, text: str, encoding: str = "utf-8") -> Path:
    path.write_text(text, encoding=encoding, newline="")
    return path


def test_srt(tmp_path):
    path = write(tmp_path / "a.srt", SRT)
    assert read_subtitles(path) == Subtitles(str(path), (HELLO, Cue(1.0, 3602.25, "Two lines & more")))
    other = write(tmp_path / "b.srt", SRT.replace("\n", "\r\n").lstrip("\ufeff"), "utf-16")
    assert read_subtitles(str(other)).cues == read_subtitles(path).cues


def test_vtt(tmp_path):
    path = write(tmp_path / "a.vtt", VTT)
    assert read_subtitles(path).cues == (HELLO, Cue(1.0, 3602.25, "Two lines <3"))


def test_empty_lines_in_the_text_of_srt(tmp_path):
    path = tmp_path / "a.srt"
    path.write_text(
        "1\n00:00:01,000 --> 00:00:02,000\nHello\n\nthere\n\n\nagain\n\n2\n00:00:03,000 --> 00:00:04,000\nBye\n"
    )
    assert read_subtitles(path).cues == (Cue(1.0, 2.0, "Hello there again"), Cue(3.0, 4.0, "Bye"))


def test_cues_are_sorted(tmp_path):
    path = write(tmp_path / "a.srt", "00:00:05,000 --> 00:00:06,000\nb\n\n00:00:01,000 --> 00:00:02,000\na\n")
    assert [cue.text for cue in read_subtitles(path).cues] == ["a", "b"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1\n00:00:01 --> 00:00:02\na\n", r"line 2: '00:00:01 --> 00:00:02' is not a line of times"),
        ("1\nhello\n", "line 2: 'hello' is not a line of times"),
        ("WEBVTT\n\n00:01.000 --> 00:02.000\na\n\nhello\n", "line 6: 'hello' is not a line of times"),
        ("1\n00:00:05,000 --> 00:00:02,000\na\n", r"line 2: the end \(2 s\) is before the start \(5 s\)"),
        ("\n\n", "has no subtitles"),
        ("WEBVTT\n\nNOTE nothing\n", "has no subtitles"),
    ],
)
def test_malformed_files(tmp_path, text, message):
    with pytest.raises(MediaError, match=message):
        read_subtitles(write(tmp_path / "a.srt", text))


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(MediaError, match=r"none\.srt cannot be read"):
        read_subtitles(tmp_path / "none.srt")
    path = tmp_path / "latin.srt"
    path.write_bytes(b"1\n00:00:01,000 --> 00:00:02,000\n\xe9t\xe9\n")
    with pytest.raises(MediaError, match=r"is not text in UTF-8 or UTF-16\. Convert it"):
        read_subtitles(path)


def test_between():
    cues = tuple(Cue(start, start + 1.0, str(start)) for start in (0.0, 1.0, 2.0, 3.0))
    assert [cue.text for cue in Subtitles("a", cues).between(1.5, 3.0).cues] == ["1.0", "2.0"]


def test_text_of_the_prompt():
    subtitles = Subtitles("a.srt", (HELLO, Cue(2, 3, "Two")))
    assert subtitled_question(subtitles, "Why?") == (
        "Subtitles of the video:\n0.5 to 1.5 seconds: Hello there\n2.0 to 3.0 seconds: Two\nWhy?"
    )
    assert subtitled_question(None, "Why?") == subtitled_question(subtitles.between(7, 9), "Why?") == "Why?"
    assert subtitles.as_dict() == {"source": "a.srt", "num_cues": 2, "start": 0.5, "end": 3}
    assert Subtitles("a", ()).as_dict()["start"] is None


def with_track(tmp_path: Path, text: str, name: str) -> Path:
    """A video of one second with a text track."""
    video = write_clip(tmp_path / "video.mp4", Clip(num_frames=25))
    target = tmp_path / "subtitled.mkv"
    with (
        av.open(str(video)) as pictures,
        av.open(str(write(tmp_path / name, text))) as texts,
        av.open(str(target), "w") as written,
    ):
        streams = [(source, written.add_stream_from_template(source.streams[0])) for source in (pictures, texts)]
        for source, stream in streams:
            for packet in source.demux(source.streams[0]):
                if packet.size:
                    packet.stream = stream
                    written.mux(packet)
    return target


@pytest.mark.parametrize(("name", "text"), [("a.srt", SRT.lstrip("\ufeff")), ("a.vtt", VTT)])
def test_embedded_track(tmp_path, name, text):
    found = read_subtitles("embedded", with_track(tmp_path, text, name))
    assert found.cues[0] == HELLO
    assert found.cues[1].start == 1.0
    assert found.cues[1].text.startswith("Two lines")
    assert "subtitled.mkv (" in found.source


def test_no_track(clips):
    with pytest.raises(MediaError, match="has no subtitle track, and a text track is required"):
        read_subtitles("embedded", clips["video"])
    with pytest.raises(MediaError, match="Frames have no subtitle track"):
        read_subtitles("embedded", ["a.png"])
