"""How the commands and the reference's scripts end: one line and exit code 2 for an error, no output for Ctrl-C."""

from __future__ import annotations

import logging
import os
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import typer

from video_llama.cli.help import HelpGroup
from video_llama.errors import VideoLlamaError
from video_llama.log import configure

EXIT_ERROR, EXIT_INTERRUPTED, EXIT_BROKEN_PIPE = 2, 130, 141
"""130 and 141 are the codes that a shell reports for a command ended by SIGINT or SIGPIPE."""

DEBUG_KEY = "video_llama.debug"

USAGE_ERROR: type[Exception] = typer.BadParameter.__mro__[1]
"""click's UsageError. Depending on its version, typer imports click or contains a copy of it."""


def report(error: Exception, *, debug: bool = False) -> None:
    """Print ``Kind: message`` on standard error as one line, after the traceback if ``debug`` is set."""
    if debug:
        traceback.print_exception(error)
    typer.echo(f"{type(error).__name__}: {' '.join(str(error).split())}", err=True)


def turn_on_debug(context: typer.Context, is_on: bool) -> bool:
    """Record ``--debug``, which is accepted before and after the command's name."""
    if is_on:
        context.find_root().meta[DEBUG_KEY] = True
    return is_on


def is_debug_on(context: typer.Context) -> bool:
    """Return whether ``--debug`` is set, before or after the command's name."""
    return bool(context.find_root().meta.get(DEBUG_KEY, False))


@contextmanager
def reported_errors(is_debug: Callable[[], bool] = lambda: False) -> Iterator[None]:
    """End the process with a report instead of a traceback.

    VideoLlamaError, ValueError and OSError (a full disk, a folder without permission) print one line and exit with 2.
    Ctrl-C exits with 130, and a closed output pipe with 141; both print nothing. Other exceptions are bugs of this
    package and keep their traceback.
    """
    try:
        yield
        sys.stdout.flush()
    except KeyboardInterrupt:
        sys.exit(EXIT_INTERRUPTED)
    except BrokenPipeError:
        # Python flushes standard output once more at exit, which would raise again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(EXIT_BROKEN_PIPE)
    except (VideoLlamaError, ValueError, OSError) as error:
        report(error, debug=is_debug())
        sys.exit(EXIT_ERROR)


@contextmanager
def reported_usage_errors() -> Iterator[None]:
    """Report an unknown option or a wrong argument as one line and exit with 2."""
    try:
        yield
    except USAGE_ERROR as error:
        usage: Any = error
        if type(error).__name__ == "NoArgsIsHelpError":  # not an error: it prints the help
            raise
        command = usage.ctx.command_path if usage.ctx else "video-llama"
        message = " ".join(usage.format_message().split()).rstrip(".")
        typer.echo(f"UsageError: {message}. See: {command} --help", err=True)
        raise typer.Exit(EXIT_ERROR) from error


class ReportingGroup(HelpGroup):
    """The root group: reports the errors of every command."""

    def make_context(self, *arguments: Any, **settings: Any) -> Any:
        with reported_usage_errors():
            return super().make_context(*arguments, **settings)

    def invoke(self, ctx: Any) -> Any:
        configure(logging.INFO)
        with reported_errors(lambda: is_debug_on(ctx)), reported_usage_errors():
            return super().invoke(ctx)
