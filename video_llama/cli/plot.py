"""``video-llama plot RUN``: the curves of a training run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from video_llama.cli.options import Debug


def plot(
    run: Annotated[Path, typer.Argument(help="The run's folder.", show_default=False)],
    output: Annotated[Path | None, typer.Option(help="The picture. (default: curves.png in the folder)")] = None,
    debug: Debug = False,
) -> None:
    """Draw loss, learning rate and speed of a run; prints the picture's path."""
    from video_llama.training.plotting import plot_run

    typer.echo(str(plot_run(run, output)))
