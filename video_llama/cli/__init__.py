"""The command line ``video-llama``: every command is a module of its own.

Errors are one line on standard error and exit code 2; ``--debug`` shows the trace. Asking for help loads neither torch
nor transformers: every command imports what it needs when it runs.
"""

from typing import Annotated

import typer

from video_llama import __version__
from video_llama.cli.apply_delta import apply_delta
from video_llama.cli.ask import ask
from video_llama.cli.convert import convert
from video_llama.cli.demo import demo
from video_llama.cli.extract_features import extract_features
from video_llama.cli.inspect import inspect
from video_llama.cli.options import Debug
from video_llama.cli.plot import plot
from video_llama.cli.reporting import ReportingGroup, guarded
from video_llama.cli.serve import serve
from video_llama.cli.terminal import chat
from video_llama.cli.train import train
from video_llama.cli.validate_data import validate_data
from video_llama.miniature.commands import app as miniature

__all__ = ["app", "main"]

app = typer.Typer(
    name="video-llama",
    cls=ReportingGroup,
    help="Ask a video, a sound or an image. Weights: the miniature that comes with the package, or --model FOLDER.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _show_version(is_asked: bool) -> None:
    if is_asked:
        typer.echo(f"video-llama {__version__}")
        raise typer.Exit


@app.callback()
def root(
    debug: Debug = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Ask a video, a sound or an image. Weights: the miniature that comes with the package, or --model FOLDER."""


app.command()(ask)
app.command()(chat)
app.command()(demo)
app.command()(inspect)
app.command()(serve)
app.command()(train)
app.command()(validate_data)
app.command()(extract_features)
app.command()(plot)
app.command()(convert)
app.command()(apply_delta)
app.add_typer(miniature, name="miniature")


def main() -> None:
    """The console script."""
    with guarded():
        app()
