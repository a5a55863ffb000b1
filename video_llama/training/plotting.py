"""Plot metrics.jsonl and valid.jsonl of a run to curves.png."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from video_llama.errors import DataError, MissingExtraError

CURVES_FILE = "curves.png"
METRICS_FILE = "metrics.jsonl"
VALID_FILE = "valid.jsonl"
SMOOTHING_SHARE = 0.02
"""Window of the smoothed loss, as a share of the steps of the run."""


def plot_run(run_folder: Path, target: Path | None = None) -> Path:
    """Plot loss, learning rate and speed over the steps; return the path of the image.

    Raises DataError if there are no metrics, and MissingExtraError without matplotlib.
    """
    rows = read_rows(run_folder / METRICS_FILE)
    if not rows:
        raise DataError(f"{run_folder} has no steps in {METRICS_FILE}. Give a run folder (run.output_dir).")
    figure, (loss, rate, speed) = _axes()
    steps = [row["step"] for row in rows]
    losses = [row["loss"] for row in rows]
    loss.plot(steps, losses, linewidth=0.5, alpha=0.4, label="each step")
    loss.plot(steps, smoothed(losses), label="smoothed")
    if valid := read_rows(run_folder / VALID_FILE):
        loss.plot([row["step"] for row in valid], [row["loss"] for row in valid], marker="o", label="validation")
    loss.legend()
    rate.plot(steps, [row["lr"] for row in rows])
    speed.plot(steps, [row["samples_per_second"] for row in rows], linewidth=0.5)
    loss.set_title(run_folder.name)
    path = target or run_folder / CURVES_FILE
    figure.savefig(path, dpi=120)
    return path


def _axes() -> tuple[Any, Sequence[Any]]:
    """Return a figure with three plots, created without pyplot, so that no display is needed."""
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError as error:
        raise MissingExtraError("matplotlib", "plot") from error
    figure = Figure(figsize=(8, 8))
    axes = figure.subplots(3, 1, sharex=True, height_ratios=(3, 1, 1))
    for axis, label in zip(axes, ("loss", "learning rate", "samples/s"), strict=True):
        axis.set_ylabel(label)
        axis.grid(alpha=0.3)
    axes[-1].set_xlabel("step")
    return figure, axes


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Return the complete rows of a JSONL file, or an empty list if it is missing."""
    if not path.exists():
        return []
    text = path.read_text(encoding="utf-8")
    return [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]


def smoothed(values: Sequence[float]) -> list[float]:
    """Return the trailing mean over a window of ``SMOOTHING_SHARE`` of the values."""
    width = max(1, round(SMOOTHING_SHARE * len(values)))
    return [sum(part := values[max(0, end - width) : end]) / len(part) for end in range(1, len(values) + 1)]
