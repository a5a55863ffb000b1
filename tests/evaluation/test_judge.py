"""Judging a run: figures in a folder of their own, replies from the cache, and a pinned model."""

import json

import pytest

from tests.evaluation.conftest import read_jsonl, result, write_rows
from tests.evaluation.judge_server import running_judge
from video_llama.errors import DataError, JudgeError
from video_llama.evaluation.judge import JudgeOptions, judge_run, parse_reply

ROWS = [
    result("1", answer="It is red.", answers=["red"], media="a.mp4", category="colour"),
    result("2", answer="It is blue.", answers=["red"], media="a.mp4", category="colour"),
    result("3", answer="It is red.", answers=["red"], media="b.mp4"),
    result("4", answers=["red"], media="c.mp4", error="MediaError: x"),
    result("5", answer="a dog", captions=["a dog"], media="d.mp4"),
    result("6", answer="nothing to compare with", media="d.mp4"),
]


@pytest.fixture
def run(tmp_path):
    pytest.importorskip("httpx")
    (tmp_path / "run").mkdir()
    write_rows(tmp_path / "run" / "answers.jsonl", ROWS)
    return tmp_path / "run"


@pytest.fixture
def server():
    with running_judge() as running:
        yield running


def test_judgements_and_figures(run, server):
    before = (run / "answers.jsonl").read_bytes()
    summary = judge_run(run, JudgeOptions(server.url, "judge-1"))
    assert (run / "answers.jsonl").read_bytes() == before
    assert len(server.requests) == 3  # rows 1 and 3 are equal, row 4 has no answer, row 6 no expected answer
    assert (summary["rows"], summary["not_judged"]) == (5, 0)
    correct, score = summary["metrics"]["judged_correct"], summary["metrics"]["judged_score"]
    assert (correct["right"], correct["total"]) == (3, 5)
    assert score["value"] == pytest.approx((5 + 1 + 5 + 0 + 5) / 5)
    assert score["low"] < score["value"] < score["high"]
    assert summary["categories"]["colour"]["metrics"]["judged_correct"]["total"] == 2
    judgements = read_jsonl(run / "judge" / "judgements.jsonl")
    assert [each["id"] for each in judgements] == ["1", "2", "3", "4", "5"]
    assert "Answer of the model: It is red." in judgements[0]["prompt"]
    assert (judgements[0]["model"], judgements[3]["prompt"]) == ("judge-1", None)
    stored = json.loads((run / "judge" / "metrics.json").read_text())
    assert stored["judge"]["temperature"] == 0
    assert "{question}" in stored["judge"]["prompt"]


def test_replies_are_cached_and_a_run_is_continued(run, server, tmp_path):
    options = JudgeOptions(server.url, "judge-1", concurrency=1)
    server.failures = [(200, {}), (401, {})]
    with pytest.raises(JudgeError):
        judge_run(run, options)
    server.failures = []
    first = judge_run(run, options)
    num_requests = len(server.requests)
    assert judge_run(run, options) == first
    assert judge_run(run, options, tmp_path / "again", cache=run / "judge" / "cache.jsonl") == first
    assert len(server.requests) == num_requests
    with pytest.raises(DataError, match="model was 'judge-1' and is 'judge-2'"):
        judge_run(run, JudgeOptions(server.url, "judge-2"))


def test_replies_that_cannot_be_read_are_counted(run, server):
    server.replies = ["I do not know", '{"correct": "no", "score": 0}', '{"correct": true, "score": 9}']
    summary = judge_run(run, JudgeOptions(server.url, "judge-1", concurrency=1))
    assert summary["not_judged"] == 3  # rows 1 and 3 have the same reply
    assert summary["metrics"]["judged_correct"]["total"] == 2
    errors = [each["error"] for each in read_jsonl(run / "judge" / "judgements.jsonl")]
    no_verdict, bad_score = "the reply has no verdict", "the score is not a number from 0 to 5"
    assert errors == [no_verdict, None, no_verdict, None, bad_score]


def test_another_model_ends_the_run(run, server):
    server.model_name = "judge-1-0613"
    judge_run(run, JudgeOptions(server.url, "judge-1"))
    extra = result("7", answer="new", answers=["x"], media="e.mp4")
    write_rows(run / "answers.jsonl", [*ROWS, extra])
    server.model_name = "judge-1-1106"
    with pytest.raises(JudgeError, match=r"answers as judge-1-0613 and judge-1-1106"):
        judge_run(run, JudgeOptions(server.url, "judge-1"))


@pytest.mark.parametrize(
    ("text", "verdict"),
    [
        ('{"correct": true, "score": 4}', (True, 4.0)),
        ('```json\n{"correct": "No", "score": 1.5}\n```', (False, 1.5)),
        ("{'pred': 'yes', 'score': 4}", (True, 4.0)),
    ],
)
def test_parse_reply(text, verdict):
    assert parse_reply(text) == verdict


@pytest.mark.parametrize("text", ["", "yes", "{", "[1]", '{"correct": "maybe", "score": 1}', '{"correct": true}'])
def test_other_replies(text):
    with pytest.raises(ValueError, match=r"the reply|the score"):
        parse_reply(text)


def test_prompts_need_their_places():
    with pytest.raises(ValueError, match=r"The prompt has no \{answer\}"):
        JudgeOptions("http://x", "judge-1", "{question} {expected}")
    options = JudgeOptions("http://x", "judge-1", "{question}|{expected}|{answer}")
    assert options.filled(result("1", answer="{question}", answers=["a", "b"])) == "?|a | b|{question}"


def test_runs_without_expected_answers(run, server):
    write_rows(run / "answers.jsonl", ROWS[-1:])
    with pytest.raises(DataError, match="no rows with an expected answer"):
        judge_run(run, JudgeOptions(server.url, "judge-1"))
