"""Rows of questions about media."""

import json

import pytest

from video_llama.datasets.question_rows import QuestionRow, question_rows
from video_llama.errors import DataError


def read(tmp_path, *rows, name="data.jsonl", **options):
    path = tmp_path / name
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return list(question_rows(path, **options))


def test_kinds_of_rows(tmp_path):
    open_row, choice, captions = read(
        tmp_path,
        {"id": 7, "media": "a.mp4", "question": "What?", "answer": "red", "category": "colour", "more": 1},
        {"media": "a.mp4", "question": "Where?", "choices": ["left", "right"], "answer": "right"},
        {"media": ["a.mp4", "s3://b/c.wav"], "start": 2, "end": 6.5, "captions": ["A circle.", "It moves."]},
    )
    a = str(tmp_path / "a.mp4")
    assert open_row == QuestionRow("7", (a,), "What?", ("red",), category="colour")
    assert choice == QuestionRow("2", (a,), "Where?", ("right",), ("left", "right"))
    assert choice.correct_choice == 1
    assert captions == QuestionRow("3", (a, "s3://b/c.wav"), captions=("A circle.", "It moves."), start=2.0, end=6.5)


def test_a_table_has_the_same_rows(tmp_path):
    path = tmp_path / "data.csv"
    path.write_text(
        "id,media,question,choices,answer,start,end\n"
        'a,x.mp4,Where?,"left|right",left,,\n'
        'b,"[""x.mp4"", ""y.wav""]",What?,,red|crimson,1.5,2\n'
    )
    first, second = question_rows(path, tmp_path / "media")
    assert first == QuestionRow("a", (str(tmp_path / "media/x.mp4"),), "Where?", ("left",), ("left", "right"))
    assert [each[-5:] for each in second.media] == ["x.mp4", "y.wav"]
    assert (second.answers, second.start, second.end) == (("red", "crimson"), 1.5, 2.0)


@pytest.mark.parametrize(("answer", "index"), [("right", 1), ("B", 1), ("(b)", 1), (1, 1), (0, 0), ("A", 0)])
def test_the_correct_choice_by_text_letter_or_index(tmp_path, answer, index):
    [row] = read(tmp_path, {"media": "a.mp4", "question": "?", "choices": ["left", "right"], "answer": answer})
    assert row.correct_choice == index


def test_the_text_of_a_choice_comes_before_its_letter(tmp_path):
    [row] = read(tmp_path, {"media": "a.mp4", "question": "?", "choices": ["B", "A"], "answer": "A"})
    assert row.correct_choice == 1


def test_several_questions_become_several_rows(tmp_path):
    rows = read(tmp_path, {"id": "x", "media": "a.mp4", "questions": ["One?", "Two?"]})
    assert [(row.id, row.question) for row in rows] == [("x/1", "One?"), ("x/2", "Two?")]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ([1], "data.jsonl:1: the row is a list"),
        ({"question": "What?"}, "data.jsonl:1: the row has no 'media'"),
        ({"media": False}, "'media' is False, not a text"),
        ({"media": "a.mp4", "question": ["What?"]}, "'question' is"),
        ({"media": "a.mp4", "start": -1}, "'start' is -1. Give seconds"),
        ({"media": "a.mp4", "end": "soon"}, "'end' is 'soon'"),
        ({"media": "a.mp4", "start": 3, "end": 2}, "not after 'start'"),
        ({"media": "a.mp4", "choices": ["a", "b"], "answer": "c"}, "the answer 'c' is none of the choices"),
        ({"media": "a.mp4", "choices": ["a", "b"], "answer": 2}, "the answer 2 is none of the choices"),
        ({"media": "a.mp4", "choices": ["a", "a"], "answer": "a"}, "two choices are equal"),
    ],
)
def test_wrong_rows_are_named(tmp_path, row, message):
    with pytest.raises(DataError, match=message):
        read(tmp_path, row)


def test_ids_are_unique(tmp_path):
    with pytest.raises(DataError, match=r"data.jsonl:2: the id '7' occurs twice"):
        read(tmp_path, {"id": "7", "media": "a.mp4"}, {"id": 7, "media": "a.mp4"})
