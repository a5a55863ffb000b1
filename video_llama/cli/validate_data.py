"""``video-llama validate-data CONFIG``: check the data of a training run before it starts."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from video_llama.cli.options import RunYaml, TrainOverrides

EXIT_FINDINGS = 1


def validate_data(
    config: RunYaml,
    overrides: TrainOverrides = None,
    report: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="File for the problems found (default: validation.jsonl in the run's folder)."
        ),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(metavar="N", min=1, help="Number of threads that read files (default: the number of CPU cores)."),
    ] = None,
) -> None:
    """Check that every row of the training data can be used.

    Prints the number of problems per data set and writes them to a report. A data set can skip the rows of a report
    (exclude: FILE). Exits with 1 if a row cannot be used.
    """
    from video_llama.config import load_config, require_filled
    from video_llama.training.check_data import validate_data
    from video_llama.training.config import TrainConfig

    settings = load_config(TrainConfig, config, overrides or [])
    require_filled(settings, source=str(config))
    path = report or settings.run.output_dir / "validation.jsonl"
    counts = validate_data(settings, str(config), path, workers=workers or os.cpu_count() or 1)
    for each in counts:
        found = ", ".join(f"{count} {problem}" for problem, count in sorted(each.problems.items())) or "no problems"
        typer.echo(f"{each.dataset}: {each.num_rows} rows, {found}")
    typer.echo(str(path))
    if any(each.num_errors for each in counts):
        raise typer.Exit(EXIT_FINDINGS)
