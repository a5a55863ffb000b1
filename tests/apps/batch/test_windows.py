"""Runs with windows: equal to the timelines in Python, one row per medium and question, errors, and continuation."""

import json

import pytest
from PIL import Image

from tests.apps.batch.conftest import read_jsonl, write_rows
from tests.factories.media import write_long_video
from video_llama.apps.batch.run import run_batch
from video_llama.chat.timeline_formats import timeline_text
from video_llama.errors import DataError
from video_llama.processors.scene_cuts import ScenePlan
from video_llama.processors.windows import WindowPlan

PLAN = WindowPlan(0.5, 0.25)


def test_rows_have_the_timelines(make_config, load, clips, assistant):
    config = make_config(windows=PLAN)
    summary = run_batch(config, load)
    rows = {row["id"]: row for row in read_jsonl(config.output)}
    assert sorted(rows) == ["absent", "both", "part", "s", "v/1", "v/2"]
    assert (summary["rows"], summary["answers"], summary["errors"]) == (6, 4, 2)
    for row_id, name in (("v/1", "video"), ("v/2", "video"), ("s", "sound")):
        row = rows[row_id]
        expected = assistant.timeline(clips[name], row["question"], window=0.5, stride=0.25, max_new_tokens=4)
        assert row["answer"] == timeline_text(expected.entries)
        assert row["timeline"]["entries"] == [entry.as_dict() for entry in expected.entries]
        assert (row["timeline"]["window"], row["timeline"]["stride"]) == (0.5, 0.25)
        for window, each in zip(row["timeline"]["windows"], expected.windows, strict=True):
            assert (window["start"], window["end"]) == (each.window.start, each.window.end)
            assert window["record"]["prompt_sha256"] == each.answer.record.prompt_sha256
    part = rows["part"]["timeline"]["windows"]
    assert (part[0]["start"], part[-1]["end"]) == (1, 2)


def test_errors_are_rows(make_config, load, clips):
    frames = clips["video"].parent / "frames of a film"
    frames.mkdir()
    for number in range(5):
        Image.new("RGB", (40, 30), (50 * number, 0, 0)).save(frames / f"{number}.png")
    rows = [
        {"id": "two", "media": [clips["video"].name, clips["sound"].name]},
        {"id": "image", "media": clips["image"].name},
        {"id": "late", "media": clips["video"].name, "start": 50},
        {"id": "frames", "media": frames.name},
    ]
    source = write_rows(clips["video"].parent / "windows.jsonl", rows)
    config = make_config(source=source, windows=WindowPlan(2))
    run_batch(config, load)
    found = {row["id"]: row for row in read_jsonl(config.output)}
    assert "has 2 media, and windows divide one" in found["two"]["error"]
    assert "is an image, and windows divide a video or a sound" in found["image"]["error"]
    assert "start is 50 s, but it lasts 3.00 s" in found["late"]["error"]
    assert all(found[name]["timeline"] is None for name in ("two", "image", "late"))
    assert [(each["start"], each["end"]) for each in found["frames"]["timeline"]["windows"]] == [(0, 2), (2, 4), (4, 5)]


def test_a_window_that_cannot_be_read(make_config, load, clips):
    """The context is too short for the question with sound and picture, but not for all rows."""
    rows = [{"id": "long", "media": clips["video"].name, "question": "why " * 300}]
    config = make_config(source=write_rows(clips["video"].parent / "long.jsonl", rows), windows=WindowPlan(1))
    run_batch(config, load)
    [row] = read_jsonl(config.output)
    assert row["error"].startswith("ContextLengthError: ")
    assert row["error"].endswith("(window from 0 s to 1 s)")
    assert [each["answer"] for each in row["timeline"]["windows"]] == [None] * 3


def test_a_run_continues(make_config, load):
    config = make_config(windows=PLAN)
    run_batch(config, load)
    whole = {row["id"]: row for row in read_jsonl(config.output)}
    lines = config.output.read_bytes().splitlines(keepends=True)
    config.output.write_bytes(b"".join(lines[:3]) + lines[3][:50])
    assert run_batch(config, load)["new_rows"] == 3
    rows = read_jsonl(config.output)
    assert {row["id"]: row for row in rows} == whole
    assert len(rows) == len(whole)
    with pytest.raises(DataError, match="holds results of other settings"):
        run_batch(make_config(windows=WindowPlan(3)), load)


def test_two_workers_and_parquet(make_config, load):
    pyarrow = pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed: pip install '.[parquet]'")
    config = make_config(windows=PLAN)
    run_batch(config, load)
    other = make_config("two.parquet", windows=PLAN, workers=2)
    run_batch(other, load)
    table = {row["id"]: row for row in pyarrow.read_table(other.output).to_pylist()}
    for row in read_jsonl(config.output):
        assert table[row["id"]]["answer"] == row["answer"]
        timeline = table[row["id"]]["timeline"]
        assert (None if timeline is None else json.loads(timeline)) == row["timeline"]


def test_scenes(make_config, load, tmp_path):
    folder = tmp_path / "films"
    folder.mkdir()
    write_long_video(folder / "a.mp4", 20)
    config = make_config(source=folder, windows=ScenePlan())
    run_batch(config, load)
    [row] = read_jsonl(config.output)
    assert [each["start"] for each in row["timeline"]["windows"]] == [0, 10]
    assert row["timeline"]["scenes"]["threshold"] == 8
