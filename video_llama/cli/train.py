"""``video-llama train CONFIG``: run a training from its YAML file."""

from __future__ import annotations

from typing import Annotated

import typer

from video_llama.cli.dry_run import DryRunSettings, show_dry_run
from video_llama.cli.options import RunYaml, TrainOverrides


def train(
    config: RunYaml,
    overrides: TrainOverrides = None,
    resume: Annotated[
        str | None,
        typer.Option(metavar="CHECKPOINT", help="Checkpoint to resume from, or auto for the newest one of the run."),
    ] = None,
    max_steps: Annotated[
        int | None,
        typer.Option(metavar="N", min=1, help="Stop after this many steps; the learning rate schedule is unchanged."),
    ] = None,
    *,
    plan: DryRunSettings,
) -> None:
    """Train or fine-tune a model as described by a YAML file.

    Prints the folder of the run, which contains metrics.jsonl, curves.png and checkpoints/. With --dry-run, predicts
    the memory of each GPU instead.
    """
    if plan.dry_run:
        show_dry_run(config, overrides or [], plan)
        return
    from video_llama.training.run import train_from_config

    typer.echo(str(train_from_config(config, overrides or [], resume=resume, max_steps=max_steps)))
