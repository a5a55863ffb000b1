"""The metrics of a run: metrics.jsonl and valid.jsonl, log lines, a progress bar, TensorBoard, and skipped samples.

The progress bar is shown if standard error is a terminal. TensorBoard is optional (``run.tensorboard``).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TextIO

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from video_llama.datasets.loading import Batch
from video_llama.errors import DataError, MissingExtraError
from video_llama.files import parse_json, replace_text
from video_llama.log import logger
from video_llama.training.distributed import World
from video_llama.training.plotting import METRICS_FILE, VALID_FILE

LOG_LINES_PER_RUN = 20
LEFT_OUT_FILE = "left_out.jsonl"
MIN_DRAWN = 100
"""Minimum denominator of the share of skipped samples, so that one bad file at the start does not stop a run."""
_BAR_NUMBERS = ("loss", "lr", "samples_per_second", "tokens_per_second")


class ScalarWriter(Protocol):
    """The part of TensorBoard's SummaryWriter that is used here."""

    def add_scalar(self, tag: str, value: float, step: int) -> None: ...


@dataclass
class MetricsLogger:
    """Writes the metrics of each step and validation. Only the main process has outputs; in the others it does nothing.

    ``first`` and ``last`` are the range of steps.
    """

    first: int
    last: int
    metrics: TextIO | None = None
    valid: TextIO | None = None
    writer: ScalarWriter | None = None
    bar: Progress | None = None
    _task: TaskID | None = field(default=None)

    def step(self, row: Mapping[str, Any]) -> None:
        """Write the metrics of a step."""
        if self.metrics is None:
            return
        _write(self.metrics, row)
        done, every = row["step"] - self.first, max(1, (self.last - self.first) // LOG_LINES_PER_RUN)
        if (done - 1) % every == 0 or row["step"] == self.last:
            logger.info("step %d  loss %.4f  lr %.3g", row["step"], row["loss"], row["lr"])
        for name in (*_BAR_NUMBERS, "grad_norm"):
            self._scalar(f"train/{name}", row[name], row["step"])
        if self.bar is not None:
            self._draw(row)

    def validation(self, row: Mapping[str, Any]) -> None:
        """Write the metrics of a validation."""
        if self.valid is None:
            return
        _write(self.valid, row)
        logger.info("step %d  validation loss %.4f", row["step"], row["loss"])
        self._scalar("valid/loss", row["loss"], row["step"])

    def _scalar(self, tag: str, value: float, step: int) -> None:
        if self.writer is not None:
            self.writer.add_scalar(tag, value, step)

    def _draw(self, row: Mapping[str, Any]) -> None:
        assert self.bar is not None
        numbers: dict[str, Any] = {name: f"{row[name]:.4g}" for name in _BAR_NUMBERS}
        if self._task is None:
            self._task = self.bar.add_task("training", total=self.last - self.first, **numbers)
        self.bar.update(self._task, completed=row["step"] - self.first, **numbers)


@contextmanager
def open_metrics(
    run_folder: Path, first: int, last: int, *, is_main: bool, validates: bool, tensorboard: bool
) -> Iterator[MetricsLogger]:
    """Yield a logger for steps ``first`` to ``last - 1``; existing rows of these steps are removed from the files.

    Raises MissingExtraError if ``tensorboard`` is set and TensorBoard is not installed.
    """
    if not is_main:
        yield MetricsLogger(first, last)
        return
    remove_rows_after(first, run_folder / LEFT_OUT_FILE)
    with ExitStack() as stack:
        metrics = MetricsLogger(
            first,
            last,
            stack.enter_context(_open_for_append(run_folder / METRICS_FILE, first)),
            stack.enter_context(_open_for_append(run_folder / VALID_FILE, first)) if validates else None,
            stack.enter_context(_tensorboard(run_folder, first)) if tensorboard else None,
            stack.enter_context(_progress_bar()),
        )
        yield metrics


@contextmanager
def _open_for_append(path: Path, first: int) -> Iterator[TextIO]:
    """Yield a JSONL file open for appending, without the rows of steps after ``first``."""
    remove_rows_after(first, path)
    with path.open("a", encoding="utf-8") as file:
        yield file


def remove_rows_after(step: int, path: Path) -> None:
    """Remove the rows of later steps, and an incomplete last row, from a JSONL file if it exists."""
    if path.exists():
        text = path.read_text(encoding="utf-8")
        lines = text[: text.rfind("\n") + 1].splitlines(keepends=True)
        replace_text(path, "".join(line for line in lines if _step_of(line, path) <= step))


def _step_of(line: str, path: Path) -> float:
    """Return the step of a row; infinity, with a warning, for a damaged row."""
    try:
        return int(parse_json(line)["step"])
    except (ValueError, KeyError, TypeError):
        logger.warning("%s: a damaged row is removed: %.80s", path, line.strip())
        return float("inf")


@contextmanager
def _tensorboard(run_folder: Path, first: int) -> Iterator[ScalarWriter]:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ModuleNotFoundError as error:
        raise MissingExtraError("tensorboard", "train") from error
    writer = SummaryWriter(str(run_folder / "tensorboard"), purge_step=first + 1)
    try:
        yield writer
    finally:
        writer.close()


@contextmanager
def _progress_bar() -> Iterator[Progress | None]:
    """Yield a progress bar with the metrics of the step if standard error is a terminal, else None."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield None
        return
    numbers = "loss {task.fields[loss]}  lr {task.fields[lr]}  {task.fields[samples_per_second]} samples/s"
    columns = (BarColumn(), MofNCompleteColumn(), TextColumn(f"{numbers}  {{task.fields[tokens_per_second]}} tokens/s"))
    with Progress(*columns, TimeRemainingColumn(), console=console, transient=True) as bar:
        yield bar


def _write(file: TextIO, row: Mapping[str, Any]) -> None:
    file.write(json.dumps(row) + "\n")
    file.flush()


@dataclass
class LeftOut:
    """Counts the samples that are skipped because of unreadable media, and stops the run if there are too many.

    ``limits`` is the ``max_bad_share`` of each data set with ``on_bad_media: skip``. The counts are those of the whole
    run, over all processes.
    """

    limits: Mapping[str, float]
    path: Path
    world: World
    drawn: dict[str, float] = field(default_factory=dict)
    bad: dict[str, float] = field(default_factory=dict)

    def count(self, step: int, group: Sequence[Batch]) -> int:
        """Report and count the samples that the batches of a step skip; return their number over all processes.

        Raises DataError if the share of a data set exceeds its limit.
        """
        if not self.limits:
            return 0
        self._report(step, group)
        num_left_out = 0
        for batch in group:
            name = batch.dataset
            left_out = self.world.sum(float(len(batch.left_out)))
            self.drawn[name] = self.drawn.get(name, 0.0) + self.world.sum(float(batch.num_drawn))
            self.bad[name] = self.bad.get(name, 0.0) + left_out
            num_left_out += int(left_out)
            self._check(name)
        return num_left_out

    def state_dict(self) -> dict[str, dict[str, float]]:
        """Return the counts for a checkpoint. They are the same in every process."""
        return {"drawn": dict(self.drawn), "bad": dict(self.bad)}

    def load_state_dict(self, state: Mapping[str, Mapping[str, float]]) -> None:
        """Continue from the counts of a checkpoint."""
        self.drawn, self.bad = dict(state["drawn"]), dict(state["bad"])

    def _report(self, step: int, group: Sequence[Batch]) -> None:
        rows = [(batch.dataset, reason) for batch in group for reason in batch.left_out]
        if not rows:
            return
        with self.path.open("a", encoding="utf-8") as file:
            for name, reason in rows:
                logger.warning("step %d: skipped a sample of %s: %s", step + 1, name, reason)
                file.write(json.dumps({"step": step + 1, "dataset": name, "reason": reason}) + "\n")

    def _check(self, name: str) -> None:
        bad, drawn, limit = self.bad[name], self.drawn[name], self.limits.get(name, 0.0)
        if bad > limit * max(drawn, MIN_DRAWN):
            raise DataError(
                f"datasets.{name}: {int(bad)} of {int(drawn)} samples so far are unreadable, more than max_bad_share "
                f"{limit} (see {self.path}). Repair the files, exclude them (validate-data), or raise max_bad_share."
            )
