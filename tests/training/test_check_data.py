"""``validate-data``, ``extract-features`` and ``plot``: what they find, write and return."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from video_llama.cli import app
from video_llama.datasets.features import FeatureStore
from video_llama.training.plotting import smoothed
from video_llama.training.run import train_from_config

Write = Callable[..., Path]
FRAMES = {"train": {"name": "alpro_video_eval", "n_frms": 4}}


def run_command(*arguments: str) -> Any:
    return CliRunner().invoke(app, list(arguments))


def said(question: str, answer: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]


@pytest.fixture
def mixed(tmp_path: Path, clips: Path) -> dict[str, Any]:
    """Rows of which only the first can be used without a word."""
    video = str(sorted((clips / "videos").rglob("*.mp4"))[0])
    (tmp_path / "text.mp4").write_text("not a video")
    rows = [
        {"video": video, "messages": said("What?", "A circle.")},
        {"video": "lost.mp4", "messages": said("What?", "A circle.")},
        {"video": "text.mp4", "messages": said("What?", "A circle.")},
        {"video": video, "messages": said("<video><video>?", "A circle.")},
        {"audio": video, "messages": said("What?", "A hum.")},
        {"video": video, "messages": said("What?", "A circle. " * 40)},
        {"video": video, "messages": said("What? " * 400, "A circle.")},
    ]
    (tmp_path / "own.json").write_text(json.dumps(rows))
    info = {"anno_dir": str(tmp_path / "own.json"), "videos_dir": str(tmp_path)}
    return {"own": {"format": "messages", "build_info": info, "vis_processor": FRAMES, "max_length": 120}}


def test_every_bad_row_is_found_and_can_be_excluded(write_yaml: Write, mixed: dict[str, Any], tmp_path: Path) -> None:
    done = run_command("validate-data", str(write_yaml(datasets=mixed)), "--workers", "2")
    assert done.exit_code == 1
    assert "own: 7 rows, 1 long, 1 missing, 1 row, 2 text, 1 unreadable" in done.stdout
    report = tmp_path / "run" / "validation.jsonl"
    found = [json.loads(line) for line in report.read_text().splitlines()]
    by_row = {row["sample"].rpartition(":")[2]: (row["level"], row["problem"]) for row in found}
    assert by_row == {
        "1": ("error", "missing"),
        "2": ("error", "unreadable"),
        "3": ("error", "row"),
        "4": ("error", "text"),
        "5": ("warning", "long"),
        "6": ("error", "text"),
    }
    messages = {row["sample"].rpartition(":")[2]: row["message"] for row in found}
    assert "<video> 2 times and the row names 1" in messages["3"]
    assert "shows the vision branch nothing" in messages["4"]
    assert "is cut to 120" in messages["5"]
    assert "no answer within the first 120" in messages["6"]
    mixed["own"]["exclude"] = str(report)
    path = write_yaml(name="rest", datasets=mixed, run={"batch_size_train": 2})
    assert len((train_from_config(path, max_steps=2) / "metrics.jsonl").read_text().splitlines()) == 2


def test_sound_data_without_a_fault_exits_0(write_yaml: Write, clips: Path, tmp_path: Path) -> None:
    done = run_command("validate-data", str(write_yaml("audio", stage=1)), "--report", str(tmp_path / "report.jsonl"))
    assert (done.exit_code, (tmp_path / "report.jsonl").read_text()) == (0, "")
    assert "rows, no problems" in done.stdout


def test_a_clip_shorter_than_asked_for_is_a_warning(write_yaml: Write, clips: Path, tmp_path: Path) -> None:
    picture = next((clips / "pictures").iterdir(), None)
    assert picture is not None
    (tmp_path / "own.json").write_text(json.dumps([{"video": str(picture), "caption": "One frame."}]))
    dataset = {"format": "captions", "build_info": {"anno_dir": str(tmp_path / "own.json")}, "vis_processor": FRAMES}
    done = run_command("validate-data", str(write_yaml(datasets={"own": dataset})))
    assert (done.exit_code, "own: 1 rows, 1 short" in done.stdout) == (0, True)


def test_the_valid_section_is_checked_too(write_yaml: Write, clips: Path) -> None:
    info = {"anno_dir": str(clips / "captions"), "videos_dir": str(clips / "captions")}
    path = write_yaml(valid={"held_out": {"format": "webvid", "build_info": info}}, run={"valid_every_steps": 1})
    done = run_command("validate-data", str(path))
    assert (done.exit_code, "held_out: 12 rows, 12 missing" in done.stdout) == (1, True), done.output
    done = run_command("validate-data", str(path), "--set", "valid.held_out.branch=audio")
    assert done.exit_code == 2
    assert "valid.held_out.branch" in done.output


def test_features_are_there_before_the_run(write_yaml: Write, clips: Path, tmp_path: Path) -> None:
    info = {"anno_dir": str(clips / "captions"), "videos_dir": str(clips / "videos")}
    held_out = {"format": "webvid", "build_info": info, "vis_processor": {"train": {"n_frms": 3}}}
    run = {"valid_every_steps": 1}
    path = write_yaml(valid={"held_out": held_out}, run=run)
    done = run_command("extract-features", str(path))
    assert done.exit_code == 0, done.output
    num_questions = len(json.loads((clips / "questions_seeing.json").read_text()))
    assert f"webvid_instruct: {num_questions} samples\nheld_out: 12 samples" in done.stdout
    (folder,) = (path for path in (tmp_path / "features").iterdir() if path.is_dir())
    assert len(FeatureStore(folder)) == 24  # twelve clips with four frames, and with three
    shards = {shard: shard.stat().st_mtime_ns for shard in (tmp_path / "features").rglob("*.safetensors")}
    assert shards
    cached = train_from_config(path, max_steps=1)
    uncached = write_yaml(name="uncached", valid={"held_out": held_out}, run={**run, "cache_features": False})
    assert valid_loss(cached) == valid_loss(train_from_config(uncached, max_steps=1))
    assert {shard: shard.stat().st_mtime_ns for shard in (tmp_path / "features").rglob("*.safetensors")} == shards
    assert run_command("extract-features", str(path), "--set", "run.cache_features=false").exit_code == 2


def test_curves_are_drawn_and_missing_ones_named(write_yaml: Write, tmp_path: Path) -> None:
    run = train_from_config(write_yaml(), max_steps=3)
    done = run_command("plot", str(run), "--output", str(tmp_path / "curves.png"))
    assert done.exit_code == 0, done.output
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert run_command("plot", str(tmp_path / "nowhere")).exit_code == 2


def valid_loss(run: Path) -> float:
    return float(json.loads((run / "valid.jsonl").read_text())["loss"])


def test_smoothing_is_a_trailing_mean() -> None:
    assert smoothed([1.0, 2.0, 3.0]) == [1.0, 2.0, 3.0]
    values = [float(index) for index in range(100)]
    assert smoothed(values)[:3] == [0.0, 0.5, 1.5]
