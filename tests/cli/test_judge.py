"""``video-llama judge``."""

import json

import pytest

from tests.cli.conftest import assert_one_line, invoke
from tests.evaluation.conftest import result, write_rows
from tests.evaluation.judge_server import running_judge


@pytest.fixture
def run(tmp_path):
    pytest.importorskip("httpx")
    write_rows(tmp_path / "answers.jsonl", [result("1", answer="It is red.", answers=["red"])])
    return tmp_path


def test_judge(run, monkeypatch):
    monkeypatch.setenv("VIDEO_LLAMA_JUDGE_KEY", "secret")
    with running_judge() as server:
        options = ("--url", server.url, "--judge-model", "judge-1")
        table = invoke("judge", run, *options)
        as_json = invoke("judge", run, *options, "--json")
        assert server.keys == ["Bearer secret"]
    assert table.exit_code == 0, table.output
    assert "judged_correct  100.0" in table.stdout
    assert table.stdout.splitlines()[-1] == "1 rows, 0 whose reply could not be read"
    assert json.loads(as_json.stdout)["metrics"]["judged_score"]["value"] == 5


def test_errors(run, tmp_path):
    prompt = tmp_path / "prompt.txt"
    prompt.write_text("{question}")
    options = ("--url", "http://127.0.0.1:1/v1", "--judge-model", "judge-1")
    assert_one_line(invoke("judge", run, *options, "--prompt", prompt), "ValueError: The prompt has no {expected}")
    assert_one_line(invoke("judge", tmp_path / "absent", *options), "DataError: ")
    assert_one_line(invoke("judge", run, "--judge-model", "judge-1"), "UsageError: ")
