"""``video-llama batch``: options, summary, errors."""

import json

import pytest

from tests.cli.conftest import QUESTION, assert_one_line, invoke
from video_llama.cli.batch import summary_text


@pytest.fixture
def batch(model_path):
    """Run ``video-llama batch`` with the tiny model."""

    def run(*arguments):
        return invoke("batch", *arguments, "--model", model_path, "--device", "cpu", "--max-new-tokens", 4)

    return run


def test_a_folder(batch, clips, tmp_path, ask):
    (tmp_path / "media").mkdir()
    (tmp_path / "media" / "a.mp4").symlink_to(clips["video"])
    arguments = (tmp_path / "media", tmp_path / "out.jsonl", "--question", QUESTION, "--frames", 3, "--no-audio")
    result = batch(*arguments)
    assert result.exit_code == 0, result.output
    assert "1 rows, 1 answered, 0 with errors" in result.stdout
    assert "bound by" in result.stdout
    [row] = map(json.loads, (tmp_path / "out.jsonl").read_text().splitlines())
    assert len(row["record"]["media"][0]["frames"]["seconds"]) == 3
    assert row["record"]["modalities"]["audio"] == "not asked for"
    again = batch(*arguments, "--json")
    assert json.loads(again.stdout)["new_rows"] == 0


def test_summary():
    summary = {"output": "o.jsonl", "rows": 3, "answers": 2, "errors": 1, "new_rows": 0}
    assert summary_text(summary) == "o.jsonl: 3 rows, 2 answered, 1 with errors\nAll rows were answered before."


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("absent", "out.jsonl"), "DataError: absent has no questions"),
        (("absent", "out.jsonl", "--question", "?"), "DataError: absent does not exist"),
        (("absent.csv", "out.jsonl"), "DataError: absent.csv cannot be read"),
        (("a", "out.txt", "--question", "?"), "ValueError: The results are to be written to out.txt"),
        (("a", "out.jsonl", "--fps", 1, "--frames", 2), "ValueError: --frames and --fps cannot be combined"),
        (("a", "out.jsonl", "--set", "media_worker=2"), "ConfigError: batch: media_worker: unknown key"),
    ],
)
def test_errors(arguments, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert_one_line(invoke("batch", *arguments), message)
