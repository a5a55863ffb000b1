"""The package's logger, progress bars and activities. Importing this module configures nothing."""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from rich.progress import Progress

logger = logging.getLogger("video_llama")

SHOW_AFTER_SECONDS = 1.0
"""An activity is shown once it has lasted this long."""

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


@contextmanager
def shown_activities() -> Iterator[None]:
    """Within this context, show each :func:`activity` on standard error if that is a terminal.

    Not to be combined with :func:`progress`: a terminal shows one of them at a time.
    """
    global _display
    if not sys.stderr.isatty():
        yield
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

    columns = [TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn()]
    before, _display = _display, _Display(Progress(*columns, console=Console(stderr=True), transient=True))
    try:
        yield
    finally:
        _display = before


@contextmanager
def activity(description: str, total: int | None = None) -> Iterator[Callable[[], None] | None]:
    """Work that may take several seconds. Yields the function to call after each of ``total`` steps.

    Yields None unless the command line shows activities (:func:`shown_activities`).
    """
    if _display is None:
        yield None
        return
    with _display.task(description, total) as advance:
        yield advance


class _Display:
    """The open activities, shown together once the first of them has lasted SHOW_AFTER_SECONDS."""

    def __init__(self, bars: Progress) -> None:
        self._bars, self._num_open = bars, 0
        self._timer: threading.Timer | None = None

    @contextmanager
    def task(self, description: str, total: int | None) -> Iterator[Callable[[], None]]:
        task = self._bars.add_task(description, total=total)
        if self._num_open == 0:
            self._timer = threading.Timer(SHOW_AFTER_SECONDS, self._bars.start)
            self._timer.daemon = True
            self._timer.start()
        self._num_open += 1
        try:
            yield lambda: self._bars.advance(task)
        finally:
            self._num_open -= 1
            if self._num_open == 0 and self._timer is not None:
                self._timer.cancel()
                self._timer.join()
                self._bars.stop()
            self._bars.remove_task(task)


_display: _Display | None = None
