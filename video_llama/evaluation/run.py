"""Evaluate a model on a data set: rows in, answers.jsonl, metrics.json and metrics.png out.

A run that was interrupted, also by ``kill -9``, continues with the same command. Batches are cut from all rows; one
that is not complete in answers.jsonl is computed again as a whole, and its missing rows are written. So the results
equal those of a run without interruption.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import torch
import transformers

import video_llama
from video_llama.datasets.question_rows import QuestionRow
from video_llama.datasets.row_file import RowFile, complete_rows, keep_settings
from video_llama.errors import DataError, MissingExtraError
from video_llama.evaluation.answering import AssistantLoader, Result, load_row_answerer
from video_llama.evaluation.config import BenchmarkConfig
from video_llama.evaluation.layouts import read_layout
from video_llama.evaluation.metrics import summary_of
from video_llama.evaluation.plotting import plot_metrics
from video_llama.evaluation.workers import make_workers
from video_llama.files import replace_text, sha256
from video_llama.log import logger, progress

ANSWERS_FILE = "answers.jsonl"
EVALUATION_SETTINGS_FILE = "settings.json"
SUMMARY_FILE = "metrics.json"
PLOT_FILE = "metrics.png"


def evaluate(config: BenchmarkConfig, output: Path, load: AssistantLoader, *, workers: int = 1) -> dict[str, Any]:
    """Answer all rows, and return the content of metrics.json.

    Args:
        config: the data set and the settings.
        output: folder of the results. An interrupted run is continued; one with other settings is refused.
        load: loads the model; picklable if there are several workers.
        workers: number of processes, each with a model of its own.

    Raises:
        DataError: rows that cannot be used, too many rows whose media cannot be read, or results of other settings.
        WorkerError: a worker process ended unexpectedly.
    """
    rows = list(islice(read_layout(config.layout, config.data, config.media_dir), config.limit))
    if not rows:
        raise DataError(f"{config.data} has no rows. Check the path and the layout ({config.layout}).")
    with RowFile(output / ANSWERS_FILE) as file:
        running = make_workers(partial(load_row_answerer, load, config), workers)
        try:
            keep_settings(output / EVALUATION_SETTINGS_FILE, _settings(config, running.description()))
            _answer_missing(rows, config, file, running.results)
        finally:
            running.close()
    return write_summary(output, rows)


def _settings(config: BenchmarkConfig, weights: dict[str, Any]) -> dict[str, Any]:
    return {
        **config.model_dump(mode="json", exclude={"max_bad_share"}),
        "data_sha256": sha256(config.data),
        "weights": weights,
        "versions": {
            "video_llama": video_llama.__version__,
            "torch": torch.__version__,
            "transformers": transformers.__version__,
        },
    }


def _answer_missing(rows: Sequence[QuestionRow], config: BenchmarkConfig, file: RowFile, answer: Any) -> None:
    limit = int(config.max_bad_share * len(rows))
    num_errors = sum(1 for row in complete_rows(file.path) if row["error"])
    missing = [batch for batch in _batches(rows, config.batch_size) if not all((row.id,) in file.done for row in batch)]
    if file.done:
        logger.info("%d of %d rows are answered already.", len(file.done), len(rows))
    for results in progress(answer(missing), "evaluating", len(missing)):
        new = [result for result in results if (result["id"],) not in file.done]
        errors = [result for result in new if result["error"]]
        num_errors += len(errors)
        if num_errors > limit:
            raise DataError(
                f"Row {errors[0]['id']}: {errors[0]['error']} ({num_errors} of {len(rows)} rows have errors, and "
                f"max_bad_share allows {limit}.) Correct the row or its media and run the command again."
            )
        file.write(new)


def _batches(rows: Sequence[QuestionRow], size: int) -> Iterator[Sequence[QuestionRow]]:
    return (rows[start : start + size] for start in range(0, len(rows), size))


def read_results(output: Path) -> list[Result]:
    """Return the results of a run. Raises DataError if there are none."""
    results = list(complete_rows(output / ANSWERS_FILE))
    if not results:
        raise DataError(f"{output} has no answers. Give the folder of a finished run.")
    return results


def write_summary(output: Path, rows: Sequence[QuestionRow]) -> dict[str, Any]:
    """Compute the figures, write metrics.json and metrics.png, and return the content of metrics.json."""
    by_id = {result["id"]: result for result in complete_rows(output / ANSWERS_FILE)}
    summary = summary_of([by_id[row.id] for row in rows])
    replace_text(output / SUMMARY_FILE, json.dumps(summary, indent=2, ensure_ascii=False) + "\n")
    try:
        plot_metrics(summary, output / PLOT_FILE)
    except MissingExtraError as error:
        logger.warning("No plot: %s", error)
    return summary
