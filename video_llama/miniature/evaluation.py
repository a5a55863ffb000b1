"""What the miniature is asked in an evaluation, and how its answers are counted.

In: scenes with their clips. Out: probes (a clip, a question, the canonical answer, the figures that it counts for), and
from the marked probes a table of counts with 95 % intervals.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Any, Literal

import numpy as np

from video_llama.chat import Assistant
from video_llama.log import progress
from video_llama.miniature.dataset import read_scenes, write_dataset
from video_llama.miniature.questions import QA, grade, question
from video_llama.miniature.world import Scene, SoundSort
from video_llama.processors.medium import ReadMedium

TEST_SOUNDS: tuple[SoundSort, ...] = ("matched", "mismatched", "silent")
TWO_PART_SHARE = 0.3
BATCH_SIZE = 32
MAX_NEW_TOKENS = 48

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


@dataclass(frozen=True)
class Mark:
    """A probe with the answer that was given to it."""

    probe: Probe
    answer: str
    is_right: bool


@dataclass(frozen=True)
class Evaluation:
    """The counts of every figure, the marked answers, and what they were made with."""

    counts: dict[str, Count]
    marks: list[Mark]
    weights: str
    seed: int
    num_clips: int
    seconds: float

    def as_dict(self) -> dict[str, Any]:
        """Accuracies, counts and ablations as plain data."""

        def details(count: Count) -> dict[str, float]:
            low, high = count.interval
            return {**asdict(count), "low": low, "high": high}

        asked = {name: count for name, count in self.counts.items() if count.total}
        return {
            "accuracy": {name: count.accuracy for name, count in asked.items() if name in EXPLANATIONS},
            "ablations": {name: count.accuracy for name, count in asked.items() if name in ABLATIONS},
            "counts": {name: details(count) for name, count in asked.items()},
            "targets": TARGETS,
            "weights": self.weights,
            "seed": self.seed,
            "num_clips": self.num_clips,
            "seconds": round(self.seconds, 1),
        }


def evaluate(
    assistant: Assistant, clips_dir: Path, *, num_clips: int = 400, seed: int = 1, workers: int = 2
) -> Evaluation:
    """Write the clips of ``seed`` to ``clips_dir`` (those that are there are kept), ask, and count.

    Raises ValueError for fewer than one clip, DataError for a folder that holds the clips of another seed.
    """
    start = time.perf_counter()
    write_dataset(
        clips_dir,
        num_clips=num_clips,
        seed=seed,
        split="test",
        workers=workers,
        two_part_share=TWO_PART_SHARE,
        sounds=TEST_SOUNDS,
    )
    clips = read_scenes(clips_dir)
    probes = plan([scene for _, scene in clips], seed)
    marks = list(_ask(assistant, clips, probes, np.random.default_rng([seed, 31])))
    counts = tally(probes, (mark.is_right for mark in marks))
    return Evaluation(counts, marks, assistant.name, seed, num_clips, time.perf_counter() - start)


def _ask(
    assistant: Assistant, clips: Sequence[tuple[Path, Scene]], probes: Sequence[Probe], rng: np.random.Generator
) -> Iterator[Mark]:
    """The answers to the probes, in their order; each clip is read and encoded once for all questions about it."""
    waiting: list[tuple[Probe, Any]] = []
    by_clip = [list(group) for _, group in groupby(probes, key=lambda probe: probe.clip)]
    for group in progress(by_clip, "asking"):
        sources: dict[tuple[Ablation, int | None], Any] = {}
        for probe in group:
            key = (probe.ablation, probe.other)
            if key not in sources:
                sources[key] = assistant.encode(_medium(assistant, clips, probe, rng))
            waiting.append((probe, sources[key]))
        while len(waiting) >= BATCH_SIZE:
            yield from _answer(assistant, waiting[:BATCH_SIZE])
            waiting = waiting[BATCH_SIZE:]
    if waiting:
        yield from _answer(assistant, waiting)


def _answer(assistant: Assistant, batch: Sequence[tuple[Probe, Any]]) -> Iterator[Mark]:
    requests = [(medium, probe.qa.question) for probe, medium in batch]
    answers = assistant.ask_batch(requests, batch_size=BATCH_SIZE, max_new_tokens=MAX_NEW_TOKENS)
    for (probe, _), answer in zip(batch, answers, strict=True):
        yield Mark(probe, answer.text, grade(probe.qa, answer.text))


def _medium(
    assistant: Assistant, clips: Sequence[tuple[Path, Scene]], probe: Probe, rng: np.random.Generator
) -> ReadMedium:
    """A probe's clip as it is, or after its ablation."""
    medium = assistant.read(clips[probe.clip][0], no_audio=probe.ablation == "audio_left_out")
    if probe.ablation == "audio_replaced":
        assert probe.other is not None
        return replace(medium, sound=assistant.read(clips[probe.other][0]).sound, why_no_sound=None)
    if probe.ablation in ("frames_shuffled", "frames_reversed"):
        assert medium.frames is not None
        count = len(medium.frames.frames)
        order = rng.permutation(count) if probe.ablation == "frames_shuffled" else np.arange(count)[::-1]
        return replace(medium, frames=replace(medium.frames, frames=medium.frames.frames[order]))
    return medium
