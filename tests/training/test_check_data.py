"""``validate-data``: findings, report and exit code."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from video_llama.cli import app
from video_llama.training.run import train_from_config

Write = Callable[..., Path]
FRAMES = {"train": {"name": "alpro_video_eval", "n_frms": 4}}


def run_command(*arguments: str) -> Any:
    return CliRunner().invoke(app, list(arguments))


def turns(question: str, answer: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]


@pytest.fixture
def mixed(tmp_path: Path, clips: Path) -> dict[str, Any]:
    """Rows of which only the first has no finding."""
    video = str(sorted((clips / "videos").rglob("*.mp4"))[0])
    (tmp_path / "text.mp4").write_text("not a video")
    rows = [
        {"video": video, "messages": turns("What?", "A circle.")},
        {"video": "lost.mp4", "messages": turns("What?", "A circle.")},
        {"video": "text.mp4", "messages": turns("What?", "A circle.")},
        {"video": video, "messages": turns("<video><video>?", "A circle.")},
        {"audio": video, "messages": turns("What?", "A hum.")},
        {"video": video, "messages": turns("What?", "A circle. " * 40)},
        {"video": video, "messages": turns("What? " * 400, "A circle.")},
    ]
    (tmp_path / "own.json").write_text(json.dumps(rows))
    info = {"anno_dir": str(tmp_path / "own.json"), "videos_dir": str(tmp_path)}
    return {"own": {"format": "messages", "build_info": info, "vis_processor": FRAMES, "max_length": 160}}


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
    assert "<video> 2 times, but the row has 1" in messages["3"]
    assert "no medium for the vision branch" in messages["4"]
    assert "is truncated to 160" in messages["5"]
    assert "no answer within the first 160" in messages["6"]
    mixed["own"]["exclude"] = str(report)
    path = write_yaml(name="rest", datasets=mixed, run={"batch_size_train": 2})
    assert len((train_from_config(path, max_steps=2) / "metrics.jsonl").read_text().splitlines()) == 2


def test_valid_data_exits_with_0(write_yaml: Write, clips: Path, tmp_path: Path) -> None:
    done = run_command("validate-data", str(write_yaml("audio", stage=1)), "--report", str(tmp_path / "report.jsonl"))
    assert (done.exit_code, (tmp_path / "report.jsonl").read_text()) == (0, "")
    assert "rows, no problems" in done.stdout


def test_a_clip_shorter_than_requested_is_a_warning(write_yaml: Write, clips: Path, tmp_path: Path) -> None:
    image = next((clips / "pictures").iterdir(), None)
    assert image is not None
    (tmp_path / "own.json").write_text(json.dumps([{"video": str(image), "caption": "One frame."}]))
    dataset = {"format": "captions", "build_info": {"anno_dir": str(tmp_path / "own.json")}, "vis_processor": FRAMES}
    done = run_command("validate-data", str(write_yaml(datasets={"own": dataset})))
    assert (done.exit_code, "own: 1 rows, 1 short" in done.stdout) == (0, True)


def test_the_valid_section_is_checked(write_yaml: Write, clips: Path) -> None:
    info = {"anno_dir": str(clips / "captions"), "videos_dir": str(clips / "captions")}
    path = write_yaml(valid={"held_out": {"format": "webvid", "build_info": info}}, run={"valid_every_steps": 1})
    done = run_command("validate-data", str(path))
    assert (done.exit_code, "held_out: 12 rows, 12 missing" in done.stdout) == (1, True), done.output
    done = run_command("validate-data", str(path), "--set", "valid.held_out.branch=audio")
    assert done.exit_code == 2
    assert "valid.held_out.branch" in done.output
