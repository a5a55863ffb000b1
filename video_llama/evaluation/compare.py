"""Compare two runs on the same rows: the difference of each figure with its interval, and the rows that changed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from video_llama.errors import DataError
from video_llama.evaluation.answering import Result
from video_llama.evaluation.captions import bleu, cider_d
from video_llama.evaluation.metrics import EXPLANATIONS_OF_METRICS, Figure, captions_of, group_of, marks
from video_llama.evaluation.run import EVALUATION_SETTINGS_FILE, read_results
from video_llama.evaluation.statistics import bootstrap_interval, mcnemar_p, mean_score
from video_llama.files import read_json

METHOD = (
    "difference = second - first. low and high: 95 % percentile bootstrap over media, with the same resamples for both "
    "runs. p: McNemar's exact test, two-sided"
)


def compare_runs(first: Path, second: Path) -> dict[str, Any]:
    """Compare the rows that both runs answered.

    Returns settings that differ, counts, figures, and the rows whose answer or choice changed. Raises DataError if the
    runs have no row in common, or if rows of the same id have other questions or expected answers.
    """
    pairs, only_first, only_second = _pairs(first, second)
    changed = [_change(a, b) for a, b in pairs if a["answer"] != b["answer"] or marks(a) != marks(b)]
    return {
        "first": str(first),
        "second": str(second),
        "settings": _changed_settings(first, second),
        "rows": len(pairs),
        "only_in_first": only_first,
        "only_in_second": only_second,
        "metrics": _share_figures(pairs) | _caption_figures(pairs),
        "method": METHOD,
        "changed": changed,
    }


Pair = tuple[Result, Result]
Score = Callable[[np.ndarray], float]


def _pairs(first: Path, second: Path) -> tuple[list[Pair], int, int]:
    others = {result["id"]: result for result in read_results(second)}
    pairs = []
    results = read_results(first)
    for result in results:
        other = others.get(result["id"])
        if other is None:
            continue
        if _task(result) != _task(other):
            raise DataError(f"Row {result['id']} differs between {first} and {second}. Compare runs of one data set.")
        pairs.append((result, other))
    if not pairs:
        raise DataError(f"{first} and {second} have no row in common. Compare runs of one data set.")
    return pairs, len(results) - len(pairs), len(others) - len(pairs)


def _task(result: Result) -> tuple[Any, list[str]]:
    """Return what the runs have in common for a row; the folder of the media may differ."""
    return result["expected"], [path.rpartition("/")[2] for path in result["media"]]


def _changed_settings(first: Path, second: Path) -> dict[str, list[Any]]:
    old, new = (read_json(run / EVALUATION_SETTINGS_FILE) for run in (first, second))
    return {name: [old.get(name), new.get(name)] for name in sorted({*old, *new}) if old.get(name) != new.get(name)}


def _change(first: Result, second: Result) -> dict[str, Any]:
    old, new = marks(first), marks(second)
    return {
        "id": first["id"],
        "expected": first["expected"],
        "answers": [first["answer"], second["answer"]],
        "correct": {name: [old.get(name), new.get(name)] for name in {**old, **new}},
    }


def _share_figures(pairs: Sequence[Pair]) -> dict[str, Figure]:
    marked = [(marks(first), marks(second), group_of(first)) for first, second in pairs]
    figures: dict[str, Figure] = {}
    for name in EXPLANATIONS_OF_METRICS:
        rows = [(old[name], new[name], group) for old, new, group in marked if name in old and name in new]
        if not rows:
            continue
        only_first = sum(old and not new for old, new, _ in rows)
        only_second = sum(new and not old for old, new, _ in rows)
        difference = mean_score([float(new) - float(old) for old, new, _ in rows])
        figures[name] = {
            **_difference([group for _, _, group in rows], difference),
            "first": sum(old for old, _, _ in rows) / len(rows),
            "second": sum(new for _, new, _ in rows) / len(rows),
            "only_first": only_first,
            "only_second": only_second,
            "total": len(rows),
            "p": mcnemar_p(only_first, only_second),
        }
    return figures


def _caption_figures(pairs: Sequence[Pair]) -> dict[str, Figure]:
    pairs = [pair for pair in pairs if pair[0]["expected"].get("captions")]
    if not pairs:
        return {}
    (old, references), (new, _) = captions_of([a for a, _ in pairs]), captions_of([b for _, b in pairs])
    groups = [group_of(first) for first, _ in pairs]
    old_bleu, new_bleu = bleu(old, references), bleu(new, references)
    old_cider, new_cider = (mean_score(cider_d(texts, references)) for texts in (old, new))
    return {
        "bleu": _score_figure(groups, old_bleu.of, new_bleu.of),
        "cider_d": _score_figure(groups, old_cider, new_cider),
    }


def _score_figure(groups: Sequence[Any], old: Score, new: Score) -> Figure:
    all_rows = np.ones(len(groups))
    difference = _difference(groups, lambda weights: new(weights) - old(weights))
    return {**difference, "first": old(all_rows), "second": new(all_rows), "total": len(groups)}


def _difference(groups: Sequence[Any], difference: Score) -> Figure:
    low, high = bootstrap_interval(groups, difference)
    return {"difference": difference(np.ones(len(groups))), "low": low, "high": high}


def comparison_lines(comparison: dict[str, Any], num_changed: int) -> list[str]:
    """Return the comparison as lines of text, with the first ``num_changed`` rows that changed."""
    lines = [f"{comparison['rows']} rows; {len(comparison['changed'])} changed. {comparison['method']}."]
    for name, figure in comparison["metrics"].items():
        scale = 100 if "p" in figure else 1
        values = {key: figure[key] * scale for key in ("first", "second", "difference", "low", "high")}
        line = (
            f"{name}: {values['first']:.1f} -> {values['second']:.1f}, difference {values['difference']:+.1f} "
            f"({values['low']:+.1f} to {values['high']:+.1f})"
        )
        if "p" in figure:
            line += f", only first {figure['only_first']}, only second {figure['only_second']}, p = {figure['p']:.3g}"
        lines.append(line)
    for name, (old, new) in comparison["settings"].items():
        lines.append(f"setting {name}: {_short(old)} -> {_short(new)}")
    for row in comparison["changed"][:num_changed]:
        old, new = row["answers"]
        correct = ", ".join(f"{name} {a} -> {b}" for name, (a, b) in row["correct"].items() if a != b)
        lines.append(f"{row['id']}: {old!r} -> {new!r}" + (f" ({correct})" if correct else ""))
    return lines


def _short(value: Any) -> str:
    if isinstance(value, dict) and "name" in value:
        return str(value["name"])
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
