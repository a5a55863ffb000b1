"""``video-llama ask --window``: the formats, the record, and the errors."""

import json

import pytest

from tests.cli.conftest import QUESTION, assert_one_line
from tests.factories.media import write_long_video
from tests.factories.models import NOTICE

WINDOWS = ("--window", 1)


def test_text(ask, clip):
    result = ask(clip, QUESTION, *WINDOWS)
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith("0:00:00.0 - 0:00:0")
    used, notice = result.stderr.splitlines()
    assert used == "(weights: tiny; 3.0 s in 3 windows: 12 frames, 9 clips of audio)"
    assert notice == NOTICE


def test_json_is_the_only_output(ask, clip):
    result = ask(clip, QUESTION, *WINDOWS, "--json", "--stride", 0.5, "--frames", 2)
    assert result.stderr == ""
    record = json.loads(result.stdout)
    assert (record["window"], record["stride"]) == (1, 0.5)
    assert [(each["start"], each["end"]) for each in record["windows"]][-1] == (2, 3)
    assert all(len(each["media"][0]["frames"]["indices"]) == 2 for each in record["windows"])
    assert ask(clip, QUESTION, *WINDOWS, "--format", "json").stdout.startswith("{")


def test_output_file(ask, clip, tmp_path):
    path = tmp_path / "a.srt"
    result = ask(clip, QUESTION, *WINDOWS, "--output", path, "--summary")
    assert result.stdout == ""
    assert path.read_text(encoding="utf-8").startswith("1\n00:00:00,000 --> ")
    wrote, summary, used, _ = result.stderr.splitlines()
    assert wrote.startswith(f"Wrote {path} (")
    assert summary.startswith("Summary: ")
    assert used.startswith("(weights: tiny; 3.0 s in 3 windows")
    ask(clip, QUESTION, *WINDOWS, "--output", tmp_path / "b.txt", "--format", "vtt")
    assert (tmp_path / "b.txt").read_text(encoding="utf-8").startswith("WEBVTT")


def test_segment(ask, clip):
    record = json.loads(ask(clip, QUESTION, *WINDOWS, "--json", "--start", 0.5, "--end", 2).stdout)
    assert [(each["start"], each["end"]) for each in record["windows"]] == [(0.5, 1.5), (1.5, 2)]


def test_summary_that_does_not_fit_keeps_the_timeline(ask, clip):
    result = ask(clip, QUESTION, "--window", 0.1, "--summary")
    assert result.exit_code == 2
    assert result.stdout.startswith("0:00:00.0 - 0:00:0")
    assert "The summary does not fit into the context" in result.stderr


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--window", 0), "window is 0. Give a positive number of seconds."),
        (("--stride", 3), "--stride applies to a timeline. Add --window SECONDS or --scenes, or remove it."),
        (("--summary",), "--summary applies to a timeline."),
        (("--window", 1, "--times", "1"), "--times cannot be combined with a timeline."),
        (("--window", 1, "--format", "xml"), "--format is 'xml'. Choose text, json, srt, vtt."),
        (("--window", 1, "--json", "--format", "srt"), "--json and --format srt cannot be combined."),
        (("--window", 1, "--output", "a.doc"), "a.doc does not end in .txt, .json, .srt, .vtt."),
        (("--scenes", "--stride", 2), "--stride cannot be combined with --scenes."),
        (("--scenes", "--scene-threshold", 0), "threshold is 0. Give a difference in percent"),
        (("--window", 2, "--scene-threshold", 5), "--scene-threshold applies to scenes. Add --scenes"),
        (("--window", 1, "--start", 9), "start is 9 s, but it lasts 3.00 s"),
    ],
)
def test_errors(ask, clip, options, message):
    assert_one_line(ask(clip, QUESTION, *options), message)


def test_files_that_cannot_be_divided(ask, clip, clips):
    assert_one_line(ask(clips["image"], QUESTION, *WINDOWS), "is an image, and windows divide a video or a sound")
    assert_one_line(ask(clip, clips["silent"], QUESTION, *WINDOWS), "but 2 files were given. Give one.")


def test_scenes(ask, tmp_path):
    film = write_long_video(tmp_path / "film.mp4", 30)
    record = json.loads(ask(film, QUESTION, "--scenes", "--json", "--no-audio").stdout)
    assert [(each["start"], each["end"]) for each in record["windows"]] == [(0, 10), (10, 20), (20, 30)]
    assert record["scenes"] == {"threshold": 8.0, "min_seconds": 1.0, "max_seconds": None}
    record = json.loads(ask(film, QUESTION, "--scenes", "--window", 7, "--json", "--no-audio").stdout)
    assert [each["start"] for each in record["windows"]] == [0, 7, 10, 17, 20, 27]


def test_subtitles(ask, clip, clips, tmp_path):
    path = tmp_path / "a.srt"
    path.write_text("00:00:00,500 --> 00:00:01,200\nHello.\n\n00:00:02,500 --> 00:00:02,900\nBye.\n", encoding="utf-8")
    result = ask(clip, QUESTION, *WINDOWS, "--subtitles", path)
    assert result.stderr.splitlines()[0].endswith("9 clips of audio, 3 subtitles)")
    record = json.loads(ask(clip, QUESTION, "--subtitles", path, "--end", 2, "--json").stdout)
    assert record["subtitles"] == {"source": str(path), "num_cues": 1, "start": 0.5, "end": 1.2}
    assert "0.5 to 1.2 seconds: Hello.\nWhat do you see?" in record["prompt"]
    assert "2 subtitles)" in ask(clip, QUESTION, "--subtitles", path).stderr
    assert_one_line(ask(clip, QUESTION, "--subtitles", "embedded"), "has no subtitle track")
    assert_one_line(ask(clip, clips["silent"], QUESTION, "--subtitles", path), "--subtitles belong to one video, but 2")
    path.write_text("1\n00:00:05\nHello.\n", encoding="utf-8")
    assert_one_line(ask(clip, QUESTION, *WINDOWS, "--subtitles", path), "a.srt, line 2: '00:00:05' is not a line of")
