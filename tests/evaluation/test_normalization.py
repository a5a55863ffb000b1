"""Normalized answers, and the choice that an answer names."""

import pytest

from video_llama.evaluation.normalization import chosen_index, contains_answer, is_exact_match, normalized

CHOICES = ["a red circle", "left", "It's blue", "up/down"]


@pytest.mark.parametrize(
    ("text", "form"),
    [
        ("The  Red, circle!", "red circle"),
        ("two", "2"),
        ("A man's left-hand", "mans left hand"),
        ("up/down", "up down"),
        ("an answer: the ＡＢＣ", "answer abc"),
        ("the", ""),
        ("", ""),
    ],
)
def test_normalized(text, form):
    assert normalized(text) == form
    assert normalized(form) == form


def test_matches():
    assert is_exact_match("A dog.", ["cat", "dog"])
    assert not is_exact_match("A big dog.", ["cat", "dog"])
    assert contains_answer("There are Two big dogs", ["2"])
    assert contains_answer("A big dog.", ["cat", "dog"])
    assert not contains_answer("A hotdog.", ["dog"])
    assert not contains_answer("Anything.", ["the"])


@pytest.mark.parametrize(
    ("answer", "index"),
    [
        ("B", 1),
        ("b", 1),
        ("(C)", 2),
        ("(c) It's blue.", 2),
        ("D. up", 3),
        ("C: it is", 2),
        ("The answer is B.", 1),
        ("Option D", 3),
        ("A red circle", 0),
        ("a red circle.", 0),
        ("its blue", 2),
        ("It moves left.", 1),
        ("It moves left and up, down", None),
        ("A blue square", None),
        ("E", None),
        ("(F)", None),
        ("", None),
    ],
)
def test_chosen_index(answer, index):
    assert chosen_index(answer, CHOICES) == index


def test_a_letter_is_a_position_also_if_choices_are_letters():
    assert chosen_index("A", ["B", "A"]) == 0
