"""Questions and answers about scenes, and grading of answers.

Input: a scene and the media that are available (video, picture or nothing; with or without sound). Output: a question
in a random wording, with the canonical answer. Used for pre-training of the language model, the training annotations
of both branches, and evaluation. Answers to comparisons give the reason first ("It is blue, so no."): a model of this
size does not learn answers that start with yes or no.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from video_llama.miniature.captions import (
    CANONICAL_MOTIONS,
    SOUND_NAMES,
    canonical_caption,
    choose,
    noun,
    sentence,
)
from video_llama.miniature.question_wordings import (
    ANY_SOUND,
    BOTH,
    COLOUR_OF_ONE,
    COLOUR_OF_ORDINAL,
    COUNT,
    DESCRIBE,
    DESCRIBE_IMAGE,
    HEAR,
    MATCH,
    MOTION,
    MOTION_OF_TWO,
    ORDER,
    SHAPE_OF_ONE,
    SHAPE_OF_ORDINAL,
    SOURCE,
)
from video_llama.miniature.world import COLOURS, MOTIONS, SHAPES, Scene

Visual = Literal["video", "image", "nothing"]
Field = Literal["all", "colour", "shape", "motion", "sound", "verdict"]

NO_PICTURE = "I see no picture."
NO_SOUND = "I hear no sound."
STILL_PICTURE = "I see one still picture."
ONE_SHAPE = "There is only one shape."
ORDINALS = ("first", "second")
NAMED_SHARE = 0.25  # share of questions about one of two colours that say "the circle", not "the first shape"


@dataclass(frozen=True)
class QA:
    """A question, its canonical answer, and the kind of the question."""

    kind: str
    question: str
    answer: str


@dataclass(frozen=True)
class QuestionView:
    """A scene, and which of its media are available for a question."""

    scene: Scene
    visual: Visual
    """The visual medium that is available."""
    has_audio: bool
    """Whether audio is available."""
    named_share: float = NAMED_SHARE
    """Share of questions about one of two colours that name the shape."""

    @property
    def is_sounding(self) -> bool:
        return self.has_audio and bool(self.scene.sounds)

    @property
    def shows_two(self) -> bool:
        """Whether two shapes are visible. A picture of a two-part scene shows only the first."""
        return self.scene.is_two_part and self.visual == "video"


Asker = Callable[[QuestionView, np.random.Generator], tuple[str, str]]


def _ask_desc(view: QuestionView, rng: np.random.Generator) -> tuple[str, str]:
    question = choose(rng, DESCRIBE_IMAGE if view.visual == "image" else DESCRIBE)
    return question, _seen(view)


def _seen(view: QuestionView) -> str:
    if view.visual == "nothing":
        return NO_PICTURE
    return sentence(noun(view.scene.parts[0])) if view.visual == "image" else canonical_caption(view.scene)


def _ask_colour(view: QuestionView, rng: np.random.Generator) -> tuple[str, str]:
    word = "colour" if rng.random() < 0.5 else "color"
    if not view.shows_two:
        return choose(rng, COLOUR_OF_ONE).format(word), f"It is {view.scene.parts[0].colour}."
    index = int(rng.integers(2))
    part = view.scene.parts[index]
    if rng.random() < view.named_share:
        return f"What {word} is the {part.shape}?", f"It is {part.colour}."
    return choose(rng, COLOUR_OF_ORDINAL).format(word, ORDINALS[index]), f"It is {part.colour}."


def _ask_shape(view: QuestionView, rng: np.random.Generator) -> tuple[str, str]:
    if not view.shows_two:
        return choose(rng, SHAPE_OF_ONE), f"It is a {view.scene.parts[0].shape}."
    index = int(rng.integers(2))
    question = choose(rng, SHAPE_OF_ORDINAL).format(ORDINALS[index])
    return question, f"It is a {view.scene.parts[index].shape}."


def _ask_motion(view: QuestionView, rng: np.random.Generator) -> tuple[str, str]:
    if view.visual == "image":
        return choose(rng, MOTION), STILL_PICTURE
    if view.shows_two:
        return choose(rng, MOTION_OF_TWO), "They stay still."
    return choose(rng, MOTION), f"It {CANONICAL_MOTIONS[view.scene.parts[0].motion]}."


def _ask_order(view: QuestionView, rng: np.random.Generator) -> tuple[str, str]:
    index = int(rng.integers(2))
    question = choose(rng, ORDER[ORDINALS[index]])
    if not view.shows_two:
        return question, ONE_SHAPE
    return question, f"The {ORDINALS[index]} shape is {noun(view.scene.parts[index])}."


def _ask_count(view: QuestionView, rng: np.random.Generator) -> tuple[str, str]:
    return choose(rng, COUNT), "There are two shapes." if view.shows_two else "There is one shape."


def _other(rng: np.random.Generator, options: tuple[str, ...], truth: str) -> str:
    """Return ``truth`` or, with probability 0.5, another option."""
    return truth if rng.random() < 0.5 else choose(rng, [option for option in options if option != truth])


def _verdict(is_so: bool) -> str:
    return "so yes." if is_so else "so no."


def _ask_yes_no(view: QuestionView, rng: np.random.Generator) -> tuple[str, str]:
    index = int(rng.integers(2)) if view.shows_two else 0
    part = view.scene.parts[index]
    subject = f"the {ORDINALS[index]} shape" if view.shows_two else choose(rng, ("it", "it", "the shape"))
    aspect = int(rng.integers(3 if view.visual == "video" and not view.shows_two else 2))
    if aspect == 0:
        asked = _other(rng, COLOURS, part.colour)
        return f"Is {subject} {asked}?", f"It is {part.colour}, {_verdict(asked == part.colour)}"
    if aspect == 1:
        asked = _other(rng, SHAPES, part.shape)
        return f"Is {subject} a {asked}?", f"It is a {part.shape}, {_verdict(asked == part.shape)}"
    reason = f"It {CANONICAL_MOTIONS[part.motion]}"
    if rng.random() < 0.3:
        question = choose(rng, ("Does it move?", "Is it moving?", "Does the shape move?"))
        return question, f"{reason}, {_verdict(part.motion != 'still')}"
    asked = _other(rng, MOTIONS, part.motion)
    question = f"Does {subject} stay still?" if asked == "still" else f"Does {subject} move {asked}?"
    return question, f"{reason}, {_verdict(asked == part.motion)}"


def _heard(view: QuestionView) -> str:
    if not view.is_sounding:
        return NO_SOUND
    return f"I hear {', and then '.join(f'{SOUND_NAMES[s]}, the sound of a {s}' for s in view.scene.sounds)}."


def _ask_hear(view: QuestionView, rng: np.random.Generator) -> tuple[str, str]:
    return choose(rng, HEAR), _heard(view)


def _ask_any_sound(view: QuestionView, rng: np.random.Generator) -> tuple[str, str]:
    return choose(rng, ANY_SOUND), "Yes, I hear a sound." if view.is_sounding else NO_SOUND


def _ask_source(view: QuestionView, rng: np.random.Generator) -> tuple[str, str]:
    makers = " and then ".join(f"a {shape}" for shape in view.scene.sounds)
    answer = (
        sentence(f"{makers} {'makes' if len(view.scene.sounds) == 1 else 'make'} the sound") if makers else NO_SOUND
    )
    return choose(rng, SOURCE), answer


def _ask_match(view: QuestionView, rng: np.random.Generator) -> tuple[str, str]:
    shapes = view.scene.shapes if view.shows_two else view.scene.shapes[:1]
    seen = " and then ".join(f"a {shape}" for shape in shapes)
    heard = " and then ".join(f"a {shape}" for shape in view.scene.sounds)
    joint = " and" if len(shapes) == len(view.scene.sounds) == 1 else ", and"
    answer = f"I see {seen}{joint} hear {heard}, {_verdict(view.scene.sounds == shapes)}"
    return choose(rng, MATCH), answer


def _ask_both(view: QuestionView, rng: np.random.Generator) -> tuple[str, str]:
    return choose(rng, BOTH), f"{_seen(view)} {_heard(view)}"


ASKERS: dict[str, Asker] = {
    "desc": _ask_desc,
    "colour": _ask_colour,
    "shape": _ask_shape,
    "motion": _ask_motion,
    "order": _ask_order,
    "count": _ask_count,
    "yes_no": _ask_yes_no,
    "hear": _ask_hear,
    "any_sound": _ask_any_sound,
    "source": _ask_source,
    "match": _ask_match,
    "both": _ask_both,
}
QUESTION_KINDS = tuple(ASKERS)
SEEING_KINDS = ("desc", "colour", "shape", "motion", "order", "count", "yes_no")
HEARING_KINDS = ("hear", "any_sound", "source")
JOINT_KINDS = ("match", "both")
HARD_KINDS = ("order", "yes_no", "match", "colour", "shape")


def question(
    scene: Scene,
    kind: str,
    rng: np.random.Generator,
    *,
    visual: Visual = "video",
    has_audio: bool = True,
    named_share: float = NAMED_SHARE,
) -> QA:
    """Generate a question about a scene, with its answer.

    Args:
        scene: the scene.
        kind: one of ``QUESTION_KINDS``.
        rng: random generator of the wording and of details (first or second shape, which colour, ...).
        visual: "video", "image" (of the first part) or "nothing". With "nothing", the answer to questions about the
            picture is "I see no picture."
        has_audio: whether sound is available. If not, or if the scene is silent, the answer is "I hear no sound."
        named_share: share of questions about one of two colours that name the shape.

    Raises:
        ValueError: an unknown kind.
    """
    if kind not in ASKERS:
        raise ValueError(f"{kind!r} is not a kind of question: use one of {', '.join(QUESTION_KINDS)}")
    view = QuestionView(scene, visual, has_audio, named_share)
    asked, answer = ASKERS[kind](view, rng)
    if kind in (*SEEING_KINDS, "match") and visual == "nothing":
        answer = NO_PICTURE
    elif kind in ("source", "match") and not view.is_sounding:
        answer = NO_SOUND
    return QA(kind, asked, answer)


_FACTS: dict[str, tuple[Field, str]] = {
    **{word: ("colour", word) for word in COLOURS},
    **{word: ("shape", word) for word in SHAPES},
    **{word: ("motion", word) for word in MOTIONS},
    **{name.split()[-1]: ("sound", name) for name in SOUND_NAMES.values()},
    **{word: ("verdict", word) for word in ("yes", "no", "first", "second", "one", "two", "only", "picture")},
}


def facts(text: str, field: Field = "all") -> tuple[str, ...]:
    """Return the facts in an answer, in order: colours, shapes, motions, sounds, and verdicts such as yes or two."""
    words = re.findall(r"[a-z]+", text.lower())
    return tuple(_FACTS[word][1] for word in words if word in _FACTS and field in ("all", _FACTS[word][0]))


def grade(qa: QA, answer: str, field: Field = "all") -> bool:
    """Return whether an answer states the same facts as the canonical one, in the same order, in any wording.

    With ``field``, only facts of that type count: "A blue circle." has the correct shape for "A red circle.".
    Facts of a type that the canonical answer does not contain are errors.
    """
    if not facts(qa.answer):
        return answer.strip().lower() == qa.answer.lower()
    return facts(answer, field) == facts(qa.answer, field)
