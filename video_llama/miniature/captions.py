"""The words of the miniature: how scenes and sounds are told, in one canonical form and in many others.

In: a scene (or the shapes that sound). Out: text. The canonical form is what answers and captions use; the varied
forms are what stands in a media slot while the language model is trained, so that it reads a fact in any captions.
That a circle hums low, and so on, is said here and nowhere else: the audio branch never sees these words.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from video_llama.miniature.world import COLOURS, MOTIONS, Scene, ScenePart

SOUND_NAMES = {"circle": "a low hum", "square": "a buzz", "triangle": "high beeps", "star": "a hiss"}

CANONICAL_MOTIONS = {motion: f"moves {motion}" for motion in MOTIONS} | {"still": "stays still"}
VARIED_MOTIONS = ("moves {}", "moves {}", "drifts {}", "slides {}", "goes {}", "is moving {}", "travels {}")
VARIED_STILL = ("stays still", "stays still", "is not moving", "does not move", "stands still", "stays in place")
VARIED_ORDERS = (
    "first {} appears, then {} appears",
    "first {} appears, then {} appears",
    "{} appears first, then {}",
    "{}, then {}",
    "first {}, and then {}",
    "{} is followed by {}",
    "{} and after it {}",
)
VARIED_SOUND_ORDERS = ("{} and then {}", "{}, then {}", "first {}, then {}", "{} is followed by {}")


def choose(rng: np.random.Generator, options: Sequence[str]) -> str:
    """One of the options, each equally likely."""
    return options[int(rng.integers(len(options)))]


def sentence(text: str) -> str:
    """The text with a capital and a full stop."""
    return f"{text[0].upper()}{text[1:]}."


def noun(part: ScenePart) -> str:
    """ "a red circle"."""
    return f"a {part.colour} {part.shape}"


def plain_caption(scene: Scene) -> str:
    """The canonical caption without capital and full stop, as the reference's caption rules leave it.

    "a red circle moves left"; "first a red circle appears, then a blue square appears".
    """
    if scene.is_two_part:
        return VARIED_ORDERS[0].format(noun(scene.parts[0]), noun(scene.parts[1]))
    return f"{noun(scene.parts[0])} {CANONICAL_MOTIONS[scene.parts[0].motion]}"


def canonical_caption(scene: Scene) -> str:
    """The one form in which answers tell a scene: "A red circle moves left."."""
    return sentence(plain_caption(scene))


def _dressed(rng: np.random.Generator, text: str) -> str:
    """The text with capital and full stop, or one of them, or neither."""
    if rng.random() < 0.5:
        text = f"{text[0].upper()}{text[1:]}"
    return f"{text}." if rng.random() < 0.5 else text


def _varied_part(rng: np.random.Generator, part: ScenePart) -> str:
    article = "the" if rng.random() < 0.2 else "a"
    if part.motion == "still":
        return f"{article} {part.colour} {part.shape} {choose(rng, VARIED_STILL)}"
    return f"{article} {part.colour} {part.shape} {choose(rng, VARIED_MOTIONS).format(part.motion)}"


def caption(scene: Scene, rng: np.random.Generator) -> str:
    """A caption of what is seen in one of many wordings, capital and full stop at random."""
    if scene.is_two_part:
        return _dressed(rng, choose(rng, VARIED_ORDERS).format(noun(scene.parts[0]), noun(scene.parts[1])))
    return _dressed(rng, _varied_part(rng, scene.parts[0]))


def image_caption(scene: Scene, rng: np.random.Generator) -> str:
    """A caption of a still picture of the first part: a shape and its colour, no motion."""
    forms = ("{}", "{}", "a picture of {}", "there is {}", "one {}")
    form, first = choose(rng, forms), scene.parts[0]
    return _dressed(rng, form.format(f"{first.colour} {first.shape}" if form.startswith("one") else noun(first)))


def sound_caption(shapes: Sequence[str], rng: np.random.Generator) -> str:
    """What stands in the sound slot for one or two sounding shapes.

    Mostly a caption of the sounding object with an irrelevant colour and motion, as the audio branch is trained on
    pictures; else a bare "a circle", or the sound itself, "a low hum".
    """
    chance = rng.random()
    if len(shapes) == 1 and chance < 0.55:
        return _dressed(rng, _varied_part(rng, ScenePart(choose(rng, COLOURS), shapes[0], choose(rng, MOTIONS))))
    if chance < 0.55:
        told = [f"a {choose(rng, COLOURS)} {shape}" for shape in shapes]
        return _dressed(rng, choose(rng, VARIED_ORDERS).format(*told))
    told = [SOUND_NAMES[shape] if chance > 0.8 else f"a {shape}" for shape in shapes]
    return _dressed(rng, told[0] if len(told) == 1 else choose(rng, VARIED_SOUND_ORDERS).format(*told))
