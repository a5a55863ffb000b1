"""The package's logger and progress bar. Importing this module configures nothing."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
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


def progress(items: Iterable[T], description: str, total: int | None = None) -> Iterator[T]:
    """Yield ``items`` and show a progress bar on standard error. Shows nothing if that is not a terminal."""
    from rich.console import Console  # not at the top: the command line imports this module, and --help has to be fast
    from rich.progress import track

    console = Console(stderr=True)
    yield from track(items, description, total=total, console=console, transient=True, disable=not console.is_terminal)
