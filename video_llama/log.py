"""The package's logger and progress bar. Importing this module configures nothing."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

logger = logging.getLogger("video_llama")

T = TypeVar("T")


def configure(level: int = logging.INFO) -> None:
    """Send the package's log to standard error. Only the command line calls this; the library does not."""
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(levelname).1s %(message)s"))
    logger.handlers[:] = [handler]
    logger.setLevel(level)
    logger.propagate = False


def progress(
    items: Iterable[T], description: str, total: int | None = None, status: Callable[[], str] | None = None
) -> Iterator[T]:
    """Yield ``items`` and show a progress bar on standard error. Shows nothing if that is not a terminal.

    ``status`` returns a short text to show after the bar; it is called after each item.
    """
    # Not at the top: the command line imports this module, and --help has to be fast.
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = [TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn()]
    columns += [TextColumn("{task.fields[status]}")] if status is not None else []
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(description, total=total, status="")
        for item in bar.track(items, total=total, task_id=task):
            yield item
            if status is not None:
                bar.update(task, status=status())
