"""Metrics files, TensorBoard, and the count of samples that are skipped because of unreadable media."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from video_llama.errors import DataError, MediaError
from video_llama.training.checkpoint import newest_checkpoint
from video_llama.training.metrics import remove_rows_after
from video_llama.training.run import train_from_config

Losses = Callable[[Path], list[float]]
Write = Callable[..., Path]


def test_later_and_incomplete_rows_are_removed(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n{"step": 2}\n{"step": 3}\n{"st')
    remove_rows_after(2, path)
    assert path.read_text() == '{"step": 1}\n{"step": 2}\n'
    remove_rows_after(2, tmp_path / "absent.jsonl")
    assert not (tmp_path / "absent.jsonl").exists()


def test_tensorboard_and_curves_are_written_on_request(write_yaml: Write) -> None:
    pytest.importorskip("tensorboard")
    run = train_from_config(write_yaml(run={"tensorboard": True}), max_steps=2)
    assert list((run / "tensorboard").glob("events.*"))
    pytest.importorskip("matplotlib")
    assert (run / "curves.png").stat().st_size > 0


@pytest.mark.parametrize("cached", [True, False])
def test_bad_media_are_errors_or_skipped_and_counted(
    write_yaml: Write,
    losses: Losses,
    own: Callable[..., dict[str, Any]],
    caplog: pytest.LogCaptureFixture,
    cached: bool,
) -> None:
    run = {"cache_features": cached, "batch_size_train": 12, "iters_per_epoch": 4}
    with pytest.raises(MediaError, match=r"own.json:\d: .*lost.mp4"):
        train_from_config(write_yaml(name="stops", datasets={"own": own("video", bad=2)}, run=run))
    skipping = own("video", bad=2, on_bad_media="skip", max_bad_share=0.2)
    folders = [
        train_from_config(write_yaml(name=name, datasets={"own": skipping}, run=run)) for name in ("one", "again")
    ]
    assert losses(folders[0]) == losses(folders[1])
    assert "lost.mp4" in caplog.text
    if not cached:
        rows = [json.loads(line) for line in (folders[0] / "metrics.jsonl").read_text().splitlines()]
        reported = [json.loads(line) for line in (folders[0] / "left_out.jsonl").read_text().splitlines()]
        assert sum(row["left_out"] for row in rows) == len(reported) > 0
        assert all(row["dataset"] == "own" and "lost.mp4" in row["reason"] for row in reported)


def test_evaluation_counts_unreadable_samples(write_yaml: Write, own: Callable[..., dict[str, Any]]) -> None:
    skipping = own("video", bad=2, on_bad_media="skip")
    run = train_from_config(write_yaml(valid={"held_out": skipping}, run={"cache_features": False, "evaluate": True}))
    assert json.loads((run / "evaluation.jsonl").read_text())["left_out"] == 2


@pytest.mark.parametrize("cached", [True, False])
def test_too_many_bad_media_stop_the_run(write_yaml: Write, own: Callable[..., dict[str, Any]], cached: bool) -> None:
    skipping = own("video", bad=12, on_bad_media="skip", max_bad_share=0.01)
    path = write_yaml(datasets={"own": skipping}, run={"cache_features": cached, "batch_size_train": 12})
    with pytest.raises(DataError, match=r"datasets.own: \d+ of .* unreadable, more than max_bad_share 0.01"):
        train_from_config(path)


def test_the_count_of_bad_media_continues_after_resuming(
    write_yaml: Write, own: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    skipping = own("video", bad=3, on_bad_media="skip", max_bad_share=1.0)
    num_rows = len(json.loads((tmp_path / "own.json").read_text()))
    run = {"cache_features": False, "batch_size_train": num_rows}  # each step draws every row
    folder = train_from_config(write_yaml(datasets={"own": skipping}, run=run), max_steps=1)
    state = json.loads((newest_checkpoint(folder) / "state.json").read_text())  # type: ignore[operator]
    assert state["left_out"] == {"drawn": {"own": num_rows}, "bad": {"own": 3}}
    strict = write_yaml(datasets={"own": {**skipping, "max_bad_share": 0.03}}, run=run)
    with pytest.raises(DataError, match=rf"6 of {2 * num_rows} samples so far .* max_bad_share 0.03"):
        train_from_config(strict, resume="auto")
    train_from_config(write_yaml(datasets={"own": skipping}, run=run), resume="auto", max_steps=2)
    reported = [json.loads(line)["step"] for line in (folder / "left_out.jsonl").read_text().splitlines()]
    assert reported == [1, 1, 1, 2, 2, 2]  # rows of step 2 from the stopped run were removed


def test_the_error_for_a_batch_without_readable_samples_names_the_remedy(
    write_yaml: Write, own: Callable[..., dict[str, Any]]
) -> None:
    skipping = own("video", bad=1000, on_bad_media="skip", max_bad_share=1.0)
    path = write_yaml(datasets={"own": skipping}, run={"cache_features": False})
    with pytest.raises(DataError, match=r"None of the 4 samples of a process in batch \d+ is readable .*own.exclude"):
        train_from_config(path)
