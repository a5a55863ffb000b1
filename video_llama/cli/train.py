"""``video-llama train CONFIG``: a training run from its YAML file."""

from __future__ import annotations

from typing import Annotated

import typer

from video_llama.cli.options import Debug, RunYaml


def train(
    config: RunYaml,
    options: Annotated[
        list[str] | None, typer.Option("--set", help="run.init_lr=1e-4 and the like; may be repeated.")
    ] = None,
    resume: Annotated[str | None, typer.Option(help="auto, or a checkpoint to go on from.")] = None,
    max_steps: Annotated[int | None, typer.Option(min=1, help="Stop after this many steps.")] = None,
    debug: Debug = False,
) -> None:
    """Train as a YAML file says; prints the folder of the run."""
    from video_llama.training.run import train_from_config

    typer.echo(str(train_from_config(config, options or [], resume=resume, max_steps=max_steps)))
