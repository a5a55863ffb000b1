"""Ask the miniature about fresh clips that it was never trained on, and count the right answers.

In: a loaded model, a seed, a number of clips. Out: counts with intervals, as a table, a plot or JSON. The clips are
real mp4 files of held-out combinations; every answer is generated greedily through the same code that serves users.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from video_llama.errors import MissingExtraError
from video_llama.log import progress
from video_llama.miniature.dataset import read_scenes, write_dataset
from video_llama.miniature.examination import ABLATIONS, EXPLANATIONS, TARGETS, Ablation, Count, Probe, plan, tally
from video_llama.miniature.questions import grade
from video_llama.miniature.world import Scene, SoundSort

if TYPE_CHECKING:
    from rich.table import Table

    from video_llama.chat import Assistant
    from video_llama.processors.medium import ReadMedium

TEST_SOUNDS: tuple[SoundSort, ...] = ("matched", "mismatched", "silent")
TWO_PART_SHARE = 0.3
BATCH_SIZE = 32
MAX_NEW_TOKENS = 48


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


def answer_rows(evaluation: Evaluation) -> Iterator[dict[str, Any]]:
    """Every question with its answer and mark, as plain data."""
    for mark in evaluation.marks:
        qa = mark.probe.qa
        yield {
            "clip": mark.probe.clip,
            "figures": mark.probe.metrics,
            "kind": qa.kind,
            "question": qa.question,
            "expected": qa.answer,
            "answer": mark.answer,
            "is_right": mark.is_right,
        }


def table_of(evaluation: Evaluation) -> Table:
    """The counts as a table: figure, accuracy, interval, count, target."""
    from rich.table import Table

    title = f"{evaluation.num_clips} held-out clips, seed {evaluation.seed}, weights: {evaluation.weights}"
    table = Table("figure", "right", "95 % interval", "count", "target", "what is asked", title=title)
    for names in (EXPLANATIONS, ABLATIONS):
        for name, explanation in names.items():
            count = evaluation.counts[name]
            if count.total:
                low, high = (100 * bound for bound in count.interval)
                target = f"{TARGETS[name]:.0%}" if name in TARGETS else ""
                counted, interval = f"{count.right}/{count.total}", f"{low:.1f}-{high:.1f}"
                table.add_row(name, f"{count.accuracy:.1%}", interval, counted, target, explanation)
        table.add_section()
    return table


def plot(evaluation: Evaluation, path: Path) -> None:
    """Draw every figure with its interval and its target into a PNG, SVG or PDF.

    Raises MissingExtraError without matplotlib.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtraError("matplotlib", "plot") from error

    names = [name for name, count in evaluation.counts.items() if count.total]
    counts = [evaluation.counts[name] for name in names]
    figure = Figure(figsize=(8, 0.3 * len(names) + 1.2), layout="constrained")
    axes = figure.subplots()
    rows = np.arange(len(names))
    accuracies = np.array([count.accuracy for count in counts])
    bounds = np.array([count.interval for count in counts]).T
    colours = ["tab:orange" if name in ABLATIONS else "tab:blue" for name in names]
    axes.barh(rows, accuracies, color=colours, xerr=np.abs(bounds - accuracies), error_kw={"ecolor": "0.3"})
    targets = [(row, TARGETS[name]) for row, name in enumerate(names) if name in TARGETS]
    axes.plot([target for _, target in targets], [row for row, _ in targets], "k|", markersize=12, label="target")
    axes.set_yticks(rows, [f"{name} ({count.total})" for name, count in zip(names, counts, strict=True)])
    axes.invert_yaxis()
    axes.set_xlim(0, 1)
    axes.set_xlabel("share right, 95 % interval (blue: clips as they are; orange: ablations)")
    axes.set_title(f"{evaluation.weights}: {evaluation.num_clips} held-out clips, seed {evaluation.seed}")
    axes.legend(loc="lower left")
    figure.savefig(path, dpi=120)
