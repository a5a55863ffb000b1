"""``video-llama plot RUN``: plot the curves of a training run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def plot(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of the training run.", show_default=False)],
    output: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Image file to write (default: curves.png in the run's folder).")
    ] = None,
) -> None:
    """Plot the loss, learning rate and speed of a training run.

    Prints the path of the image.
    """
    from video_llama.training.plotting import plot_run

    typer.echo(str(plot_run(run, output)))
