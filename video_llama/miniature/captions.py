"""Captions of scenes and sounds, in one canonical wording and in many others.

Input: a scene, or the shapes that sound. Output: text. Answers and caption data use the canonical wording. The other
wordings replace media in the language model's training, so that it generalises to other wordings. The names of the
sounds ("a low hum") are defined only here, and the captions that the audio branch is trained on do not contain them.
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
    """Draw one of the options, all with the same probability."""
    return options[int(rng.integers(len(options)))]


def sentence(text: str) -> str:
    """Return the text with a capital and a full stop."""
    return f"{text[0].upper()}{text[1:]}."


def noun(part: ScenePart) -> str:
    """Return, for example, "a red circle"."""
    return f"a {part.colour} {part.shape}"


def plain_caption(scene: Scene) -> str:
    """Return the canonical caption without capital and full stop, as after the reference's caption processor.

    Examples: "a red circle moves left"; "first a red circle appears, then a blue square appears".
    """
    if scene.is_two_part:
        return VARIED_ORDERS[0].format(noun(scene.parts[0]), noun(scene.parts[1]))
    return f"{noun(scene.parts[0])} {CANONICAL_MOTIONS[scene.parts[0].motion]}"


def canonical_caption(scene: Scene) -> str:
    """Return the canonical caption as a sentence, as in answers: "A red circle moves left."."""
    return sentence(plain_caption(scene))


def _dressed(rng: np.random.Generator, text: str) -> str:
    """Add a capital and a full stop, each with probability 0.5."""
    if rng.random() < 0.5:
        text = f"{text[0].upper()}{text[1:]}"
    return f"{text}." if rng.random() < 0.5 else text


def _varied_part(rng: np.random.Generator, part: ScenePart) -> str:
    article = "the" if rng.random() < 0.2 else "a"
    if part.motion == "still":
        return f"{article} {part.colour} {part.shape} {choose(rng, VARIED_STILL)}"
    return f"{article} {part.colour} {part.shape} {choose(rng, VARIED_MOTIONS).format(part.motion)}"


def caption(scene: Scene, rng: np.random.Generator) -> str:
    """Return a caption of the video in a random wording."""
    if scene.is_two_part:
        return _dressed(rng, choose(rng, VARIED_ORDERS).format(noun(scene.parts[0]), noun(scene.parts[1])))
    return _dressed(rng, _varied_part(rng, scene.parts[0]))


def image_caption(scene: Scene, rng: np.random.Generator) -> str:
    """Return a caption of a picture of the first part, in a random wording: colour and shape, no motion."""
    forms = ("{}", "{}", "a picture of {}", "there is {}", "one {}")
    form, first = choose(rng, forms), scene.parts[0]
    return _dressed(rng, form.format(f"{first.colour} {first.shape}" if form.startswith("one") else noun(first)))


def sound_caption(shapes: Sequence[str], rng: np.random.Generator) -> str:
    """Return a caption of one or two sounds, in a random wording.

    Mostly a caption of the shape with a random colour and motion, because the audio branch is trained on pictures;
    otherwise the shape alone ("a circle") or the name of the sound ("a low hum").
    """
    chance = rng.random()
    if len(shapes) == 1 and chance < 0.55:
        return _dressed(rng, _varied_part(rng, ScenePart(choose(rng, COLOURS), shapes[0], choose(rng, MOTIONS))))
    if chance < 0.55:
        captions = [f"a {choose(rng, COLOURS)} {shape}" for shape in shapes]
        return _dressed(rng, choose(rng, VARIED_ORDERS).format(*captions))
    captions = [SOUND_NAMES[shape] if chance > 0.8 else f"a {shape}" for shape in shapes]
    return _dressed(rng, captions[0] if len(captions) == 1 else choose(rng, VARIED_SOUND_ORDERS).format(*captions))
