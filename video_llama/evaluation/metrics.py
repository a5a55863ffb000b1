"""Figures of a run from its results: shares of correct answers and scores of captions, with 95 % intervals.

Rows with an error count as wrong, and as an empty caption.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from video_llama.evaluation.answering import Result
from video_llama.evaluation.captions import bleu, cider_d
from video_llama.evaluation.normalization import DESCRIPTION, chosen_index, contains_answer, is_exact_match
from video_llama.evaluation.statistics import NUM_RESAMPLES, Count, Interval, bootstrap_interval, mean_score

EXPLANATIONS_OF_METRICS: dict[str, str] = {
    "exact_match": "the normalized answer equals an accepted answer",
    "contains": "the normalized answer contains an accepted answer as whole words",
    "choice_likelihood": "the choice with the highest mean log-probability of its tokens after the question",
    "choice_likelihood_sum": "the choice with the highest log-probability after the question",
    "choice_letter": "the choice that the generated answer names, after a question that lists the choices",
    "bleu": "BLEU-4 of sacrebleu in lower case, 0 to 100",
    "cider_d": "CIDEr-D times 10, as in the COCO evaluation; without its tokenizer",
}
"""Name of each figure -> its meaning."""

INTERVALS = (
    "95 %. low and high: Wilson's interval for shares; for bleu and cider_d the percentile bootstrap over media "
    f"({NUM_RESAMPLES} resamples). low_by_medium and high_by_medium, where several rows share a medium: the percentile "
    "bootstrap over media"
)

Figure = dict[str, Any]


def marks(result: Result) -> dict[str, bool]:
    """Return whether the answer of a row is correct, by each figure that applies to it."""
    expected, answer = result["expected"], result["answer"] or ""
    accepted, choices = expected.get("answers", []), expected.get("choices", [])
    if not accepted:
        return {}
    if not choices:
        return {"exact_match": is_exact_match(answer, accepted), "contains": contains_answer(answer, accepted)}
    found: dict[str, bool] = {}
    correct, scores = choices.index(accepted[0]), result["scores"]
    if scores or result["error"]:
        found["choice_likelihood"] = _best(scores, "mean") == correct
        found["choice_likelihood_sum"] = _best(scores, "sum") == correct
    if result["answer"] is not None or result["error"]:
        found["choice_letter"] = chosen_index(answer, choices) == correct
    return found


def _best(scores: Sequence[Mapping[str, float]], key: str) -> int:
    """Return the index of the highest score, the first of equal ones; -1 without scores."""
    return max(range(len(scores)), key=lambda index: scores[index][key]) if scores else -1


def figures(results: Sequence[Result]) -> dict[str, Figure]:
    """Return the figures of some results, by name."""
    marked = [marks(result) for result in results]
    names = [name for name in EXPLANATIONS_OF_METRICS if any(name in each for each in marked)]
    found = {name: _share(results, marked, name) for name in names}
    return found | _caption_figures(results)


def _share(results: Sequence[Result], marked: Sequence[dict[str, bool]], name: str) -> Figure:
    values = [(group_of(result), mark[name]) for result, mark in zip(results, marked, strict=True) if name in mark]
    count = Count(sum(mark for _, mark in values), len(values))
    figure: Figure = {"value": count.accuracy, **_bounds(count.interval), "right": count.right, "total": count.total}
    groups = [group for group, _ in values]
    if len(set(groups)) < len(groups):
        low, high = bootstrap_interval(groups, mean_score([mark for _, mark in values]))
        figure |= {"low_by_medium": low, "high_by_medium": high}
    return figure


def group_of(result: Result) -> tuple[str, ...]:
    """Return the media of a row: rows with the same media form a group of the bootstrap."""
    return tuple(result["media"])


def _bounds(interval: Interval) -> Figure:
    return {"low": interval[0], "high": interval[1]}


def _caption_figures(results: Sequence[Result]) -> dict[str, Figure]:
    rows = [result for result in results if result["expected"].get("captions")]
    if not rows:
        return {}
    candidates, references = captions_of(rows)
    groups = [group_of(row) for row in rows]
    corpus = bleu(candidates, references)
    each = cider_d(candidates, references)
    return {
        "bleu": {
            "value": corpus.score,
            **_bounds(bootstrap_interval(groups, corpus.of)),
            "total": len(rows),
            "signature": corpus.signature,
        },
        "cider_d": {
            "value": float(np.mean(each)),
            **_bounds(bootstrap_interval(groups, mean_score(each))),
            "total": len(rows),
        },
    }


def captions_of(rows: Sequence[Result]) -> tuple[list[str], list[list[str]]]:
    """Return the generated captions and the references of rows that have some."""
    return [row["answer"] or "" for row in rows], [row["expected"]["captions"] for row in rows]


def summary_of(results: Sequence[Result]) -> dict[str, Any]:
    """Return the content of metrics.json: counts, figures, and the figures of each category."""
    errors = [result for result in results if result["error"]]
    overall = figures(results)
    return {
        "rows": len(results),
        "errors": len(errors),
        "not_scored": sum(1 for result in results if not marks(result) and not result["expected"].get("captions")),
        "metrics": overall,
        "categories": {name: {"rows": len(rows), "metrics": figures(rows)} for name, rows in _by_category(results)},
        "explanations": {name: EXPLANATIONS_OF_METRICS[name] for name in overall},
        "normalization": DESCRIPTION,
        "intervals": INTERVALS,
    }


def _by_category(results: Sequence[Result]) -> Iterator[tuple[str, list[Result]]]:
    """Yield the rows of each category, in the order of the names; nothing if no row has a category."""
    names = sorted({result["expected"]["category"] for result in results if result["expected"]["category"]})
    for name in names:
        yield name, [result for result in results if result["expected"]["category"] == name]


def table(summary: Mapping[str, Any]) -> list[tuple[str, str, str, str, str]]:
    """Return the lines of metrics.json as texts: category, figure, value, interval, rows; shares in per cent."""
    parts = [("all", summary["metrics"]), *((name, part["metrics"]) for name, part in summary["categories"].items())]
    return [_line(category, name, figure) for category, metrics in parts for name, figure in metrics.items()]


def _line(category: str, name: str, figure: Figure) -> tuple[str, str, str, str, str]:
    scale = 100 if "right" in figure else 1
    low, high = figure["low"] * scale, figure["high"] * scale
    return category, name, f"{figure['value'] * scale:.1f}", f"{low:.1f} to {high:.1f}", str(figure["total"])
