"""Figures from results."""

import pytest

from tests.evaluation.conftest import result
from video_llama.evaluation.metrics import figures, marks, summary_of, table

SCORES = [{"choice": "left", "sum": -3.0, "mean": -1.5}, {"choice": "up and right", "sum": -4.0, "mean": -1.0}]


def test_marks_of_an_open_answer():
    assert marks(result(answer="A red Circle.", answers=["red circle"])) == {"exact_match": True, "contains": True}
    assert marks(result(answer="It is red.", answers=["blue", "red"])) == {"exact_match": False, "contains": True}
    assert marks(result(answers=["red"], error="MediaError: x")) == {"exact_match": False, "contains": False}
    assert marks(result(answer="It is red.")) == {}


def test_marks_of_choices():
    both = result(answer="(B)", answers=["up and right"], choices=["left", "up and right"], scores=SCORES)
    assert marks(both) == {"choice_likelihood": True, "choice_likelihood_sum": False, "choice_letter": True}
    letter = result(answer="(A)", answers=["up and right"], choices=["left", "up and right"])
    assert marks(letter) == {"choice_letter": False}
    likelihood = result(answers=["left"], choices=["left", "up and right"], scores=SCORES)
    assert marks(likelihood) == {"choice_likelihood": False, "choice_likelihood_sum": True}
    failed = result(answers=["left"], choices=["left", "up"], error="MediaError: x")
    assert set(marks(failed).values()) == {False}


def test_shares_have_intervals_and_groups():
    results = [result(str(n), answer="red" if n % 4 else "blue", answers=["red"], media=f"{n // 2}") for n in range(80)]
    figure = figures(results)["exact_match"]
    assert (figure["right"], figure["total"], figure["value"]) == (60, 80, 0.75)
    assert figure["low"] == pytest.approx(0.645, abs=1e-3)
    assert figure["high"] == pytest.approx(0.832, abs=1e-3)
    assert 0.6 < figure["low_by_medium"] < 0.75 < figure["high_by_medium"] < 0.9
    alone = figures([{**each, "media": [each["id"]]} for each in results])["exact_match"]
    assert "low_by_medium" not in alone


def test_captions():
    pytest.importorskip("sacrebleu")
    captions = ["a red circle moves to the left", "two blue squares stand still there", "there is a dog"]
    good = [
        result(str(n), answer=text, captions=[text, "something else"], media=text) for n, text in enumerate(captions)
    ]
    found = figures(good)
    assert found["bleu"]["value"] == pytest.approx(100)
    assert found["cider_d"]["value"] == pytest.approx(5)  # the mean over two references
    assert found["bleu"]["low"] == pytest.approx(100)
    worse = [*good[:2], result("2", captions=["there is a dog"], error="MediaError: x")]
    assert figures(worse)["cider_d"]["value"] < 5


def test_summary_and_table():
    results = [
        result("1", answer="red", answers=["red"], category="colour"),
        result("2", answer="left", answers=["right"], category="motion"),
        result("3", answer="x"),
        result("4", answers=["red"], error="MediaError: x", category="colour"),
    ]
    summary = summary_of(results)
    assert (summary["rows"], summary["errors"], summary["not_scored"]) == (4, 1, 1)
    assert summary["metrics"]["exact_match"]["value"] == pytest.approx(1 / 3)
    assert summary["categories"]["colour"]["metrics"]["exact_match"]["value"] == 0.5
    assert summary["explanations"].keys() == summary["metrics"].keys()
    assert ("colour", "exact_match", "50.0", "9.5 to 90.5", "2") in table(summary)
    assert table(summary)[0][:3] == ("all", "exact_match", "33.3")
