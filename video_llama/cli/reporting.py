"""How the command line ends: one line for an error, nothing for an interrupt or a reader that went away."""

from __future__ import annotations

import logging
import os
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import typer
from typer.core import TyperGroup

from video_llama.errors import VideoLlamaError
from video_llama.log import configure

EXIT_ERROR, EXIT_INTERRUPTED, EXIT_BROKEN_PIPE = 2, 130, 141
"""130 and 141 are what a shell gives a command that SIGINT or SIGPIPE ended."""

DEBUG_KEY = "video_llama.debug"

USAGE_ERROR: type[Exception] = typer.BadParameter.__mro__[1]
"""click's, which typer has from click or brings along, by its version."""


def report(error: Exception, *, debug: bool = False) -> None:
    """Print ``Kind: message`` on standard error, as one line; with ``debug`` the trace before it."""
    if debug:
        traceback.print_exception(error)
    typer.echo(f"{type(error).__name__}: {' '.join(str(error).split())}", err=True)


def turn_on_debug(context: typer.Context, is_on: bool) -> bool:
    """The callback of every ``--debug``, wherever on the line it stands."""
    if is_on:
        context.find_root().meta[DEBUG_KEY] = True
    return is_on


@contextmanager
def guarded() -> Iterator[None]:
    """Leave quietly on Ctrl-C and when whoever read our output has gone; also while modules are still loading."""
    try:
        yield
        sys.stdout.flush()
    except KeyboardInterrupt:
        sys.exit(EXIT_INTERRUPTED)
    except BrokenPipeError:
        # Python flushes once more at its end, which would raise again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(EXIT_BROKEN_PIPE)


@contextmanager
def usage_told() -> Iterator[None]:
    """An option or argument that a command does not take becomes one line, and exit code 2."""
    try:
        yield
    except USAGE_ERROR as error:
        usage: Any = error
        if type(error).__name__ == "NoArgsIsHelpError":  # no error: it prints the help
            raise
        command = usage.ctx.command_path if usage.ctx else "video-llama"
        told = " ".join(usage.format_message().split()).rstrip(".")
        typer.echo(f"UsageError: {told}. See: {command} --help", err=True)
        raise typer.Exit(EXIT_ERROR) from error


class ReportingGroup(TyperGroup):
    """Runs a command and turns what it raises into the right last words and exit code.

    A wrong argument is a ValueError in the package, and here the user's own: it is reported like the kinds of
    ``VideoLlamaError``, and so is what the file system refuses (a full disk, a folder that may not be read).
    """

    def make_context(self, *arguments: Any, **settings: Any) -> Any:
        with usage_told():
            return super().make_context(*arguments, **settings)

    def invoke(self, ctx: Any) -> Any:
        configure(logging.INFO)
        try:
            with guarded(), usage_told():
                return super().invoke(ctx)
        except (VideoLlamaError, ValueError, OSError) as error:
            report(error, debug=ctx.find_root().meta.get(DEBUG_KEY, False))
            raise typer.Exit(EXIT_ERROR) from error
