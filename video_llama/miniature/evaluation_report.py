"""Show the result of an evaluation as rows for JSON Lines, as a table or as a plot."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table

from video_llama.errors import MissingExtraError
from video_llama.miniature.evaluation import ABLATIONS, EXPLANATIONS, TARGETS, Evaluation


def answer_rows(evaluation: Evaluation) -> Iterator[dict[str, Any]]:
    """Yield every question with the expected answer, the model's answer and whether it is correct."""
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
    """Return a table of all figures: accuracy, interval, count, target and questions."""
    title = f"{evaluation.num_clips} held-out clips, seed {evaluation.seed}, weights: {evaluation.weights}"
    table = Table("figure", "correct", "95 % interval", "count", "target", "questions", title=title)
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


def plot_figures(evaluation: Evaluation, path: Path) -> None:
    """Plot all figures with their intervals and targets to a PNG, SVG or PDF file.

    Raises MissingExtraError if matplotlib is not installed.
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
    axes.set_xlabel("accuracy, 95 % interval (blue: unchanged clips; orange: ablations)")
    axes.set_title(f"{evaluation.weights}: {evaluation.num_clips} held-out clips, seed {evaluation.seed}")
    axes.legend(loc="lower left")
    figure.savefig(path, dpi=120)
