"""Questions: the canonical answers of every kind, answers without a picture or sound, and grading."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from video_llama.miniature import questions
from video_llama.miniature.questions import NO_PICTURE, NO_SOUND, QA, QUESTION_KINDS, facts, grade, question
from video_llama.miniature.world import Scene, ScenePart, sample_scene

SEEDS = st.integers(0, 2**32 - 1)
SINGLE = Scene((ScenePart("red", "circle", "left"),), ("circle",), 0, 5.0)
TWO = Scene((ScenePart("red", "circle", "still"), ScenePart("blue", "star", "still")), ("circle", "star"), 0, 5.0)
MISMATCHED = Scene((ScenePart("red", "square", "left"),), ("circle",), 0, 5.0)


def answers(scene: Scene, kind: str, **given: object) -> set[str]:
    rng = np.random.default_rng(0)
    return {question(scene, kind, rng, **given).answer for _ in range(200)}  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("kind", "single", "two"),
    [
        ("desc", {"A red circle moves left."}, {"First a red circle appears, then a blue star appears."}),
        ("colour", {"It is red."}, {"It is red.", "It is blue."}),
        ("shape", {"It is a circle."}, {"It is a circle.", "It is a star."}),
        ("motion", {"It moves left."}, {"They stay still."}),
        (
            "order",
            {"There is only one shape."},
            {"The first shape is a red circle.", "The second shape is a blue star."},
        ),
        ("count", {"There is one shape."}, {"There are two shapes."}),
        (
            "hear",
            {"I hear a low hum, the sound of a circle."},
            {"I hear a low hum, the sound of a circle, and then a hiss, the sound of a star."},
        ),
        ("any_sound", {"Yes, I hear a sound."}, {"Yes, I hear a sound."}),
        ("source", {"A circle makes the sound."}, {"A circle and then a star make the sound."}),
        (
            "match",
            {"I see a circle and hear a circle, so yes."},
            {"I see a circle and then a star, and hear a circle and then a star, so yes."},
        ),
    ],
)
def test_canonical_answers(kind: str, single: set[str], two: set[str]) -> None:
    assert answers(SINGLE, kind) == single
    assert answers(TWO, kind) == two


def test_picture_and_sound_are_distinguished() -> None:
    assert answers(MISMATCHED, "shape") == {"It is a square."}
    assert answers(MISMATCHED, "source") == {"A circle makes the sound."}
    assert answers(MISMATCHED, "match") == {"I see a square and hear a circle, so no."}
    assert answers(MISMATCHED, "both") == {"A red square moves left. I hear a low hum, the sound of a circle."}


def test_comparisons_give_the_reason_first_and_are_balanced() -> None:
    rng = np.random.default_rng(0)
    asked = [question(sample_scene(rng), "yes_no", rng) for _ in range(400)]
    assert all(qa.answer.startswith("It ") and qa.answer.endswith((", so yes.", ", so no.")) for qa in asked)
    assert 0.4 < np.mean(["yes" in qa.answer for qa in asked]) < 0.65
    for qa in asked:
        named = set(facts(qa.question)) - {"first", "second"}
        if named:
            assert named.issubset(facts(qa.answer)) is qa.answer.endswith("yes."), qa


def test_answers_are_about_the_shape_of_the_question() -> None:
    rng = np.random.default_rng(0)
    for _ in range(200):
        for kind in ("colour", "shape", "order"):
            qa = question(TWO, kind, rng)
            late = any(word in qa.question for word in ("second", "star", "next", "after", "last", "end"))
            assert set(facts(qa.answer)) & ({"blue", "star"} if late else {"red", "circle"}), qa


@pytest.mark.parametrize("kind", [*questions.SEEING_KINDS, "match"])
def test_answers_without_a_picture(kind: str) -> None:
    assert answers(TWO, kind, visual="nothing") == {NO_PICTURE}


@pytest.mark.parametrize("kind", [*questions.HEARING_KINDS, "match"])
def test_answers_without_sound(kind: str) -> None:
    assert answers(SINGLE, kind, has_audio=False) == {NO_SOUND}
    assert answers(Scene(SINGLE.parts, (), 0, 5.0), kind) == {NO_SOUND}


def test_a_picture_has_no_motion_and_no_second_shape() -> None:
    assert answers(TWO, "motion", visual="image") == {"I see one still picture."}
    assert answers(TWO, "desc", visual="image") == {"A red circle."}
    assert answers(TWO, "count", visual="image") == {"There is one shape."}


@settings(max_examples=80, deadline=None)
@given(
    SEEDS,
    st.sampled_from(QUESTION_KINDS),
    st.sampled_from(["matched", "mismatched", "single", "silent"]),
    st.sampled_from(["video", "image", "nothing"]),
    st.booleans(),
)
def test_every_kind_has_an_answer_for_every_scene(
    seed: int, kind: str, sound: str, visual: str, has_audio: bool
) -> None:
    rng = np.random.default_rng(seed)
    scene = sample_scene(rng, sound=sound)  # type: ignore[arg-type]
    qa = question(scene, kind, rng, visual=visual, has_audio=has_audio)  # type: ignore[arg-type]
    assert qa.kind == kind
    assert qa.question[-1] in "?."
    assert qa.answer.endswith(".")
    assert "{" not in qa.question + qa.answer
    assert grade(qa, qa.answer)
    assert grade(qa, f"  {qa.answer.lower()}")
    assert facts(qa.answer)


def test_an_unknown_kind_is_an_error() -> None:
    with pytest.raises(ValueError, match="use one of desc, colour, shape"):
        question(SINGLE, "smell", np.random.default_rng(0))


def test_grading_accepts_other_wordings_but_not_other_facts() -> None:
    qa = QA("desc", "What do you see?", "A red circle moves left.")
    assert grade(qa, "I see a red circle. It is moving left.")
    assert not grade(qa, "A red circle moves right.")
    assert not grade(qa, "A red circle, a blue square.")
    assert not grade(qa, "")
    assert grade(qa, "A blue circle moves up.", "shape")
    assert not grade(qa, "A blue circle moves up.", "colour")


def test_grading_checks_order_and_verdict() -> None:
    order = QA("hear", "", "I hear a low hum, the sound of a circle, and then a buzz, the sound of a square.")
    assert not grade(order, "I hear a buzz, the sound of a square, and then a low hum, the sound of a circle.")
    assert grade(order, "a hum and then a buzz", "sound")
    assert not grade(QA("yes_no", "", "It is red, so no."), "It is red, so yes.")
    assert not grade(QA("hear", "", NO_SOUND), NO_PICTURE)
    assert not grade(QA("chat", "", "Goodbye."), "Hello.")
    assert grade(QA("chat", "", "Goodbye."), "Goodbye.")
