"""``plot``: curves of a run, errors, and smoothing."""

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from video_llama.cli import app
from video_llama.errors import DataError
from video_llama.training.plotting import plot_run, read_rows, smoothed


def run_command(*arguments: str) -> Any:
    return CliRunner().invoke(app, list(arguments))


def test_curves_are_plotted_and_missing_metrics_are_errors(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    rows = [{"step": step, "loss": 1 / step, "lr": 1e-3, "samples_per_second": 9.0} for step in (1, 2, 3)]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "valid.jsonl").write_text(json.dumps({"step": 3, "loss": 0.5}) + "\n")
    done = run_command("plot", str(tmp_path), "--output", str(tmp_path / "other.png"))
    assert done.exit_code == 0, done.output
    for path in (tmp_path / "other.png", plot_run(tmp_path)):
        assert path.read_bytes().startswith(b"\x89PNG")
    assert run_command("plot", str(tmp_path / "nowhere")).exit_code == 2
    with pytest.raises(DataError, match=r"has no steps in metrics.jsonl. Give a run folder"):
        plot_run(tmp_path / "nowhere")


def test_an_incomplete_last_row_is_ignored(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n{"step": 2')
    assert read_rows(tmp_path / "metrics.jsonl") == [{"step": 1}]
    assert read_rows(tmp_path / "absent.jsonl") == []


def test_smoothing_is_a_trailing_mean() -> None:
    assert smoothed([1.0, 2.0, 3.0]) == [1.0, 2.0, 3.0]
    values = [float(index) for index in range(100)]
    assert smoothed(values)[:3] == [0.0, 0.5, 1.5]
