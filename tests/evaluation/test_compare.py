"""Two runs on the same rows."""

import json

import pytest

from tests.evaluation.conftest import result, write_rows
from video_llama.errors import DataError
from video_llama.evaluation.compare import compare_runs, comparison_lines


def write_run(folder, results, **settings):
    folder.mkdir()
    write_rows(folder / "answers.jsonl", results)
    (folder / "settings.json").write_text(json.dumps({"limit": None, **settings}))
    return folder


@pytest.fixture
def runs(tmp_path):
    """100 rows of 50 media: 10 correct only in the first run, 30 only in the second, and a changed wrong answer."""

    def results(is_right):
        return [
            result(str(n), answer="red" if is_right(n) else "blue", answers=["red"], media=f"/x/{n // 2}.mp4")
            for n in range(100)
        ]

    old, new = results(lambda n: n < 40), results(lambda n: 10 <= n < 70)
    new[99]["answer"] = "green"
    return write_run(tmp_path / "a", old, batch_size=8), write_run(tmp_path / "b", new, batch_size=4)


def test_paired_figures(runs):
    comparison = compare_runs(*runs)
    figure = comparison["metrics"]["exact_match"]
    assert (figure["first"], figure["second"], figure["difference"]) == (0.4, 0.6, pytest.approx(0.2))
    assert (figure["only_first"], figure["only_second"], figure["total"]) == (10, 30, 100)
    assert figure["p"] == pytest.approx(0.00222, abs=1e-5)
    assert 0 < figure["low"] < 0.2 < figure["high"] < 0.4
    assert comparison["settings"] == {"batch_size": [8, 4]}
    assert len(comparison["changed"]) == 41
    assert comparison["changed"][-1] == {
        "id": "99",
        "expected": {"answers": ["red"], "category": None},
        "answers": ["blue", "green"],
        "correct": {"exact_match": [False, False], "contains": [False, False]},
    }


def test_lines(runs):
    lines = comparison_lines(compare_runs(*runs), 2)
    assert lines[0].startswith("100 rows; 41 changed.")
    assert lines[1].startswith("exact_match: 40.0 -> 60.0, difference +20.0 (+")
    assert "only first 10, only second 30, p = 0.00222" in lines[1]
    assert "setting batch_size: 8 -> 4" in lines
    assert lines[-1] == "1: 'red' -> 'blue' (exact_match True -> False, contains True -> False)"


def test_captions(tmp_path):
    pytest.importorskip("sacrebleu")
    texts = ["a red circle moves to the left", "two blue squares stand still there", "there is a big dog here"]
    old = [result(text, answer="a dog", captions=[text], media=text) for text in texts]
    new = [{**each, "answer": each["id"]} for each in old]
    figures = compare_runs(write_run(tmp_path / "a", old), write_run(tmp_path / "b", new))["metrics"]
    assert figures["bleu"]["second"] == pytest.approx(100)
    assert figures["bleu"]["difference"] > 80
    assert figures["cider_d"]["second"] == pytest.approx(10)
    assert figures["cider_d"]["low"] > 5


def test_rows_of_one_run_only_are_counted(tmp_path):
    a = write_run(tmp_path / "a", [result(str(n), answer="x", answers=["x"]) for n in range(4)])
    b = write_run(tmp_path / "b", [result(str(n), answer="x", answers=["x"]) for n in range(2, 9)])
    comparison = compare_runs(a, b)
    assert (comparison["rows"], comparison["only_in_first"], comparison["only_in_second"]) == (2, 2, 5)
    assert comparison["metrics"]["exact_match"]["p"] == 1.0


def test_other_data_sets_are_refused(tmp_path):
    a = write_run(tmp_path / "a", [result("1", answer="x", answers=["x"])])
    b = write_run(tmp_path / "b", [result("1", answer="x", answers=["y"])])
    c = write_run(tmp_path / "c", [result("2", answer="x", answers=["x"])])
    with pytest.raises(DataError, match="Row 1 differs"):
        compare_runs(a, b)
    with pytest.raises(DataError, match="no row in common"):
        compare_runs(a, c)
