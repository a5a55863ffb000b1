"""What a run tells while it goes: metrics.jsonl and valid.jsonl always, log lines, a bar on a terminal, TensorBoard."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TextIO

from video_llama.errors import MissingExtraError
from video_llama.files import replace_text
from video_llama.log import logger
from video_llama.training.left_out import LEFT_OUT_FILE
from video_llama.training.plotting import METRICS_FILE, VALID_FILE

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

LOG_LINES_PER_RUN = 20
_BAR_NUMBERS = ("loss", "lr", "samples_per_second", "tokens_per_second")


class Writer(Protocol):
    """TensorBoard's writer, as far as it is used here."""

    def add_scalar(self, tag: str, value: float, step: int) -> None: ...


@dataclass
class Watch:
    """Where numbers go: the main process's files and screen, or nowhere in the others."""

    first: int
    last: int
    metrics: TextIO | None = None
    valid: TextIO | None = None
    writer: Writer | None = None
    bar: Progress | None = None
    _task: TaskID | None = field(default=None)

    def step(self, row: Mapping[str, Any]) -> None:
        """A step's row."""
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
        """A validation's row."""
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
def watching(
    run_folder: Path, first: int, last: int, *, is_main: bool, validates: bool, tensorboard: bool
) -> Iterator[Watch]:
    """A watch over steps ``first`` to ``last - 1``; what is in the files about these steps goes first.

    Raises MissingExtraError where TensorBoard is wanted and not installed.
    """
    if not is_main:
        yield Watch(first, last)
        return
    forget_after(first, run_folder / LEFT_OUT_FILE)
    with ExitStack() as stack:
        watch = Watch(
            first,
            last,
            stack.enter_context(_appended(run_folder / METRICS_FILE, first)),
            stack.enter_context(_appended(run_folder / VALID_FILE, first)) if validates else None,
            stack.enter_context(_tensorboard(run_folder, first)) if tensorboard else None,
            stack.enter_context(_bar()),
        )
        yield watch


@contextmanager
def _appended(path: Path, first: int) -> Iterator[TextIO]:
    """A JSONL file opened for more rows, without those of steps that are taken again."""
    forget_after(first, path)
    with path.open("a", encoding="utf-8") as file:
        yield file


def forget_after(step: int, path: Path) -> None:
    """Take the rows of later steps, and half of one, out of a JSONL file, where there is one."""
    if path.exists():
        text = path.read_text(encoding="utf-8")
        lines = text[: text.rfind("\n") + 1].splitlines(keepends=True)
        replace_text(path, "".join(line for line in lines if json.loads(line)["step"] <= step))


@contextmanager
def _tensorboard(run_folder: Path, first: int) -> Iterator[Writer]:
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
def _bar() -> Iterator[Progress | None]:
    """A bar with the step's numbers and the time left, where standard error is a terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

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
