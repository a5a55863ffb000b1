"""What the miniature is asked in an evaluation, and how its answers are counted.

In: scenes with their clips. Out: probes (a clip, a question, the canonical answer, the figures that it counts for), and
from the marked probes a table of counts with 95 % intervals.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from video_llama.miniature.questions import QA, question
from video_llama.miniature.world import Scene

Ablation = Literal["", "frames_shuffled", "frames_reversed", "audio_replaced", "audio_left_out"]

INTERVAL_Z = 1.96


@dataclass(frozen=True)
class Probe:
    """One question about one clip. ``metrics`` are the figures that its mark counts for; ``ablation`` what is done to
    the clip before; ``other`` the clip whose sound replaces its own."""

    clip: int
    qa: QA
    metrics: tuple[str, ...]
    ablation: Ablation = ""
    other: int | None = None


@dataclass(frozen=True)
class Count:
    """``right`` of ``total``; an accuracy with Wilson's 95 % interval."""

    right: int
    total: int

    @property
    def accuracy(self) -> float:
        return self.right / self.total if self.total else math.nan

    @property
    def interval(self) -> tuple[float, float]:
        """Lower and upper bound; with nothing counted, everything is possible."""
        if not self.total:
            return 0.0, 1.0
        share, z2 = self.accuracy, INTERVAL_Z**2
        centre = (share + z2 / (2 * self.total)) / (1 + z2 / self.total)
        half = INTERVAL_Z * math.sqrt(share * (1 - share) / self.total + z2 / (4 * self.total**2))
        half /= 1 + z2 / self.total
        return max(0.0, centre - half), min(1.0, centre + half)


TARGETS: dict[str, float] = {
    "colour": 0.98,
    "shape": 0.98,
    "motion": 0.95,
    "order": 0.90,
    "hear_matched": 0.90,
    "hear_mismatched": 0.90,
    "silence": 0.98,
}
"""What the shipped weights have to reach."""

EXPLANATIONS: dict[str, str] = {
    "colour": "What colour is it? (also of the first or second of two)",
    "colour_named": "What colour is the circle? (of two shapes, the one so named)",
    "shape": "What shape is it? (also of the first or second of two)",
    "motion": "How does it move? (one shape)",
    "order": "What comes first, or second? (two shapes; colour and shape both right)",
    "count": "One shape or two?",
    "description": "Describe the video (everything right)",
    "yes_no": "Is it red? Is it a circle? (reason and verdict)",
    "hear_matched": "What is heard, and what makes it, where it is what is seen (one sound)",
    "hear_mismatched": "The same where something else is seen (one sound)",
    "two_sounds": "Two sounds, one after the other, both right and in order",
    "match": "Does the sound match the picture? (reason and verdict)",
    "both": "What do you see and hear? (everything right)",
    "see_matched": "Colour, shape and motion while the matching sound is heard",
    "see_mismatched": "Colour, shape and motion while another sound is heard",
    "see_silent": "Colour, shape and motion in a clip without sound",
    "silence": "Any sound? What do you hear? in a clip without sound",
}
"""The figures of clips as they are."""

ABLATIONS: dict[str, str] = {
    "motion_frames_shuffled": "Motion of moving shapes, the frames in random order",
    "motion_frames_reversed": "The same, the frames reversed (a moving shape then moves the other way)",
    "order_frames_shuffled": "Order, the frames in random order",
    "order_frames_reversed": "Order, the frames reversed",
    "hear_audio_replaced": "The clip's own sound, with another's in its place",
    "hear_follows_replaced": "The sound that was put in its place",
    "hear_audio_left_out": "That no sound is heard where it is left out (--no-audio)",
}
"""The figures of clips that something was done to; the first five must fall."""


def plan(scenes: Sequence[Scene], seed: int) -> list[Probe]:
    """Every question that is asked about the clips, in the order of the clips."""
    rng, rng_of_both = np.random.default_rng([seed, 30]), np.random.default_rng([seed, 32])
    single = [index for index, scene in enumerate(scenes) if len(scene.sounds) == 1]
    probes: list[Probe] = []
    for clip, scene in enumerate(scenes):
        probes += _seeing(clip, scene, rng)
        probes += _hearing(clip, scene, rng)
        probes.append(Probe(clip, question(scene, "both", rng_of_both), ("both",)))
        probes += _without_order(clip, scene, rng)
        if clip in single:
            probes += _with_another_sound(clip, scenes, single, rng)
    return probes


def sort_of(scene: Scene) -> str:
    """``silent``, ``matched`` or ``mismatched``."""
    return "silent" if not scene.sounds else "matched" if scene.is_matched else "mismatched"


def _seeing(clip: int, scene: Scene, rng: np.random.Generator) -> list[Probe]:
    also = f"see_{sort_of(scene)}"
    kinds: dict[str, tuple[str, ...]] = {"colour": ("colour", also), "shape": ("shape", also)}
    kinds |= {"order": ("order",)} if scene.is_two_part else {"motion": ("motion", also)}
    kinds |= {"count": ("count",), "desc": ("description",), "yes_no": ("yes_no",)}
    probes = [Probe(clip, question(scene, kind, rng, named_share=0), metrics) for kind, metrics in kinds.items()]
    if scene.is_two_part:
        probes.append(Probe(clip, question(scene, "colour", rng, named_share=1), ("colour_named",)))
    return probes


def _hearing(clip: int, scene: Scene, rng: np.random.Generator) -> list[Probe]:
    if not scene.sounds:
        kinds = {"hear": "silence", "any_sound": "silence", "source": "silence"}
    else:
        heard = f"hear_{sort_of(scene)}" if len(scene.sounds) == 1 else "two_sounds"
        kinds = {"hear": heard, "source": heard, "match": "match"}
    return [Probe(clip, question(scene, kind, rng), (metric,)) for kind, metric in kinds.items()]


def _without_order(clip: int, scene: Scene, rng: np.random.Generator) -> list[Probe]:
    """Questions that need the frames' order, with that order destroyed."""
    if not scene.is_two_part and scene.parts[0].motion == "still":
        return []
    kind = "order" if scene.is_two_part else "motion"
    ablations: tuple[Ablation, ...] = ("frames_shuffled", "frames_reversed")
    return [Probe(clip, question(scene, kind, rng), (f"{kind}_{name}",), name) for name in ablations]


def _with_another_sound(
    clip: int, scenes: Sequence[Scene], single: Sequence[int], rng: np.random.Generator
) -> list[Probe]:
    """Questions about the sound, with the sound of another clip in its place, and without any."""
    scene = scenes[clip]
    left_out = Probe(clip, question(scene, "hear", rng, hears=False), ("hear_audio_left_out",), "audio_left_out")
    others = [index for index in single if scenes[index].sounds != scene.sounds]
    if not others:
        return [left_out]
    other = others[int(rng.integers(len(others)))]
    own = question(scene, "hear", rng)
    heard = QA(own.kind, own.question, question(scenes[other], "hear", rng).answer)
    return [
        left_out,
        Probe(clip, own, ("hear_audio_replaced",), "audio_replaced", other),
        Probe(clip, heard, ("hear_follows_replaced",), "audio_replaced", other),
    ]


def tally(probes: Sequence[Probe], marks: Iterable[bool]) -> dict[str, Count]:
    """Right and total for every figure, in the order of ``EXPLANATIONS`` and ``ABLATIONS``."""
    names = (*EXPLANATIONS, *ABLATIONS)
    right, total = dict.fromkeys(names, 0), dict.fromkeys(names, 0)
    for probe, mark in zip(probes, marks, strict=True):
        for metric in probe.metrics:
            right[metric] += mark
            total[metric] += 1
    return {metric: Count(right[metric], total[metric]) for metric in names}
