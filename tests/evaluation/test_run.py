"""A whole evaluation, and its continuation after interruptions."""

import json
import os
import signal
import time

import pytest

from tests.cli.conftest import start
from tests.evaluation.conftest import read_jsonl, write_rows
from video_llama.errors import DataError
from video_llama.evaluation.metrics import EXPLANATIONS_OF_METRICS
from video_llama.evaluation.run import evaluate, read_results


@pytest.fixture
def finished(config, load, tmp_path):
    return tmp_path / "run", evaluate(config, tmp_path / "run", load)


def test_files_of_a_run(finished, rows):
    folder, summary = finished
    results = read_jsonl(folder / "answers.jsonl")
    assert [each["id"] for each in results] == [row["id"] for row in rows]
    assert json.loads((folder / "metrics.json").read_text()) == summary
    assert summary["metrics"].keys() == EXPLANATIONS_OF_METRICS.keys()
    assert set(summary["categories"]) == {"see", "hear"}
    settings = json.loads((folder / "settings.json").read_text())
    assert settings["weights"]["files"]["model.safetensors"]["sha256"]
    assert settings["answers"]["max_new_tokens"] == 6
    assert (folder / "metrics.png").stat().st_size > 1000


def test_a_run_continues_after_any_row(finished, config, load):
    """Also within a batch, and after half a line."""
    folder, summary = finished
    whole = (folder / "answers.jsonl").read_bytes()
    lines = whole.splitlines(keepends=True)
    for kept in (b"", b"".join(lines[:3]), b"".join(lines[:4]) + lines[4][:50], whole):
        (folder / "answers.jsonl").write_bytes(kept)
        assert evaluate(config, folder, load) == summary
        assert (folder / "answers.jsonl").read_bytes() == whole


def test_other_settings_are_refused(finished, config, load):
    folder, _ = finished
    with pytest.raises(DataError, match="batch_size was 2 and is 3"):
        evaluate(config.model_copy(update={"batch_size": 3}), folder, load)


def test_bad_media_end_the_run_or_are_counted(config, load, tmp_path, rows, clips):
    data = write_rows(clips["video"].parent / "bad.jsonl", [*rows[:3], {**rows[0], "id": "bad", "media": "absent.mp4"}])
    config = config.model_copy(update={"data": data})
    with pytest.raises(DataError, match=r"Row bad: MediaError: .*absent.mp4.*max_bad_share allows 0"):
        evaluate(config, tmp_path / "run", load)
    assert len(read_jsonl(tmp_path / "run" / "answers.jsonl")) == 2
    summary = evaluate(config.model_copy(update={"max_bad_share": 0.25}), tmp_path / "run", load)
    assert (summary["rows"], summary["errors"]) == (4, 1)
    assert summary["metrics"]["exact_match"]["total"] == 3


def test_runs_without_rows(config, load, tmp_path):
    empty = write_rows(tmp_path / "empty.jsonl", [])
    with pytest.raises(DataError, match="has no rows"):
        evaluate(config.model_copy(update={"data": empty}), tmp_path / "run", load)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "answers.jsonl").touch()
    with pytest.raises(DataError, match="has no answers"):
        read_results(tmp_path / "run")


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize(("workers", "num_kills"), [(1, 3), (2, 1)])
def test_a_killed_run_is_continued_with_the_same_bytes(workers, num_kills, clips, model_path, tmp_path, rows):
    """``kill -9`` of the process that writes; its workers end as well, one that still starts as soon as it has."""
    many = [{**row, "id": f"{row['id']}-{number}"} for number in range(10) for row in rows if "choices" not in row]
    data = write_rows(clips["video"].parent / f"many-{workers}.jsonl", many)
    options = ("--model", model_path, "--device", "cpu", "--batch-size", 2, "--max-new-tokens", 4)

    def command(folder, num_workers):
        return start("evaluate", data, "--output", folder, "--workers", num_workers, *options)

    answers = tmp_path / "killed" / "answers.jsonl"
    sizes = [0]
    for _ in range(num_kills):
        process = command(tmp_path / "killed", workers)
        while not answers.exists() or answers.stat().st_size <= sizes[-1] + 10_000:
            assert process.poll() is None, process.stderr.read()
            time.sleep(0.01)
        children = _children(process.pid)
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()
        sizes.append(answers.stat().st_size)
        _wait_until_ended(children)
    for folder, num_workers in (("killed", workers), ("whole", 1)):
        process = command(tmp_path / folder, num_workers)
        output, errors = process.communicate()
        assert process.returncode == 0, errors
        assert "exact_match" in output
    assert sorted({*sizes, answers.stat().st_size}) == [*sizes, answers.stat().st_size]
    assert answers.read_bytes() == (tmp_path / "whole" / "answers.jsonl").read_bytes()
    assert [each["id"] for each in read_jsonl(answers)] == [row["id"] for row in many]


def _children(pid):
    with open(f"/proc/{pid}/task/{pid}/children") as file:
        return [int(each) for each in file.read().split()]


def _wait_until_ended(pids):
    deadline = time.monotonic() + 300
    while any(os.path.exists(f"/proc/{pid}") for pid in pids):
        assert time.monotonic() < deadline, "the workers of a killed process still run"
        time.sleep(0.05)
