"""A whole run, and its continuation after interruptions."""

import os
import signal
import time

import pytest

from tests.apps.batch.conftest import QUESTIONS, read_jsonl, write_rows
from tests.cli.conftest import start
from video_llama.apps.batch.run import run_batch, settings_path
from video_llama.errors import DataError

IDS = ["v/1", "v/2", "absent", "part", "both", "s"]


def test_results_and_summary(finished):
    config, summary = finished
    results = read_jsonl(config.output)
    assert [row["id"] for row in results] == IDS
    assert [row["id"] for row in results if row["error"]] == ["absent"]
    assert [row["question"] for row in results[:3]] == [*QUESTIONS, "What?"]
    assert all((row["answer"] is None) == (row["error"] is not None) for row in results)
    assert (summary["rows"], summary["answers"], summary["errors"], summary["new_rows"]) == (6, 5, 1, 6)
    assert summary["bound"] in summary["stages"]
    assert summary["media"] == 4, "the missing file counts, the shared ones once"


def test_a_run_continues_after_any_row(finished, load):
    """Also within a batch, and after half a line."""
    config, _ = finished
    whole = config.output.read_bytes()
    lines = whole.splitlines(keepends=True)
    for kept in (b"", b"".join(lines[:2]), b"".join(lines[:4]) + lines[4][:50], whole):
        config.output.write_bytes(kept)
        summary = run_batch(config, load)
        assert config.output.read_bytes() == whole
        assert (summary["answers"], summary["errors"]) == (5, 1)
        assert summary["new_rows"] == len(lines) - kept.count(b"\n")


def test_other_settings_are_refused(finished, make_config, load):
    config, _ = finished
    assert settings_path(config.output).exists()
    with pytest.raises(DataError, match=r"out\.jsonl holds results of other settings: question was 'What\?' and is"):
        run_batch(make_config(question="Why?"), load)


def test_too_many_bad_media_end_the_run(make_config, load):
    with pytest.raises(DataError, match=r"Row absent: MediaError: .*absent\.mp4.*max_bad_share allows 0"):
        run_batch(make_config(max_bad_share=0.1), load)
    assert run_batch(make_config(max_bad_share=0.2), load)["errors"] == 1


def test_a_folder(make_config, load, clips, tmp_path):
    folder = tmp_path / "media"
    folder.mkdir()
    (folder / "a.mp4").symlink_to(clips["video"])
    with open(os.fsencode(folder) + b"/\xff.mp4", "wb") as file:
        file.write(b"x")
    config = make_config(source=folder)
    run_batch(config, load)
    first, second = read_jsonl(config.output)
    assert (first["id"], first["error"]) == ("a.mp4", None)
    assert (second["id"], second["answer"]) == ("\udcff.mp4", None)
    assert run_batch(config, load)["new_rows"] == 0


def test_parquet(make_config, load):
    parquet = pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed")
    config = make_config("out.parquet")
    run_batch(config, load)
    assert parquet.read_table(config.output).column("id").to_pylist() == IDS


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"name": "out.csv"}, r"ends in \.jsonl or \.parquet"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"max_bad_share": 2.0}, "max_bad_share is 2"),
        ({"workers": 0}, "workers is 0"),
        ({"question": " "}, "question is empty"),
    ],
)
def test_invalid_settings(make_config, load, values, message):
    with pytest.raises(ValueError, match=message):
        run_batch(make_config(**values), load)


def test_without_media(make_config, load, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="has no media"):
        run_batch(make_config(source=tmp_path / "empty"), load)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("workers", [1, 2])
def test_a_killed_run_is_continued_with_the_same_bytes(workers, clips, model_path, tmp_path):
    """``kill -9`` of the process that writes. Its workers and decoding processes end as well."""
    names = [clips[name].name for name in ("video", "silent", "image")] + ["absent.mp4"]
    many = [{"id": f"{n}-{name}", "media": name, "question": QUESTIONS[0]} for n in range(15) for name in names]
    table = write_rows(clips["video"].parent / f"many-{workers}.jsonl", many)

    def command(output, num_workers):
        options = ("--model", model_path, "--device", "cpu", "--batch-size", 2, "--max-new-tokens", 4)
        return start("batch", table, output, "--workers", num_workers, *options)

    output = tmp_path / "killed.jsonl"
    process = command(output, workers)
    while not output.exists() or output.stat().st_size < 5_000:
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.01)
    children = _descendants(process.pid)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    _wait_until_ended(children)
    size = output.stat().st_size
    for path, num_workers in ((output, workers), (tmp_path / "whole.jsonl", 1)):
        process = command(path, num_workers)
        printed, errors = process.communicate()
        assert process.returncode == 0, errors
        assert "60 rows, 45 answered, 15 with errors" in printed
    assert 0 < size < output.stat().st_size
    assert [row["id"] for row in read_jsonl(output)] == [row["id"] for row in many]
    assert output.read_bytes() == (tmp_path / "whole.jsonl").read_bytes()


def _descendants(pid):
    with open(f"/proc/{pid}/task/{pid}/children") as file:
        children = [int(each) for each in file.read().split()]
    return [*children, *(each for child in children for each in _descendants(child))]


def _wait_until_ended(pids):
    deadline = time.monotonic() + 300
    while any(os.path.exists(f"/proc/{pid}") for pid in pids):
        assert time.monotonic() < deadline, "processes of a killed run still run"
        time.sleep(0.05)
