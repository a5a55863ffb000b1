"""Plot the figures of a run with their intervals."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from video_llama.errors import MissingExtraError

ROW_INCHES = 0.28


def plot_metrics(summary: Mapping[str, Any], path: Path) -> None:
    """Write a plot of metrics.json: shares in one panel, scores of captions in another, all rows and each category.

    Raises MissingExtraError without matplotlib.
    """
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError as error:
        raise MissingExtraError("matplotlib", "evaluate") from error
    parts = {"all": summary["metrics"], **{name: part["metrics"] for name, part in summary["categories"].items()}}
    panels = [panel for panel in (_panel(parts, True), _panel(parts, False)) if panel]
    if not panels:
        return
    heights = [len(panel) for panel in panels]
    figure = Figure(figsize=(8, 1 + ROW_INCHES * (sum(heights) + 3 * len(panels))), layout="constrained")
    axes = figure.subplots(len(panels), 1, height_ratios=heights, squeeze=False)[:, 0]
    for axis, panel in zip(axes, panels, strict=True):
        values = [value for _, value, _, _ in panel]
        errors = [[value - low for _, value, low, _ in panel], [high - value for _, value, _, high in panel]]
        axis.errorbar(values, range(len(panel)), xerr=errors, fmt="o", capsize=3)
        axis.set_yticks(range(len(panel)), [label for label, *_ in panel])
        axis.invert_yaxis()
        axis.grid(axis="x", alpha=0.3)
    axes[-1].set_xlabel("value with 95 % interval")
    figure.savefig(path, dpi=120)


def _panel(parts: Mapping[str, Any], is_share: bool) -> list[tuple[str, float, float, float]]:
    """Return (label, value, low, high) of the shares, or of the other figures."""
    return [
        (f"{category}: {name}", figure["value"], figure["low"], figure["high"])
        for category, metrics in parts.items()
        for name, figure in metrics.items()
        if ("right" in figure) == is_share
    ]
