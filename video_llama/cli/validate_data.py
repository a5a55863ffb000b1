"""``video-llama validate-data CONFIG``: every row of a training YAML's data, checked before the training."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from video_llama.cli.options import Debug, RunYaml

EXIT_FINDINGS = 1


def validate_data(
    config: RunYaml,
    options: Annotated[
        list[str] | None, typer.Option("--set", help="datasets.webvid.max_length=512 and the like; may be repeated.")
    ] = None,
    report: Annotated[
        Path | None, typer.Option(help="Where the findings go. (default: validation.jsonl in the run's folder)")
    ] = None,
    workers: Annotated[int, typer.Option(min=1, help="Threads that read files.")] = os.cpu_count() or 1,
    debug: Debug = False,
) -> None:
    """Check that every row can be trained on. Exit code 1 if one cannot; the report can be a data set's ``exclude``."""
    from video_llama.config import load_config, require_filled
    from video_llama.training.check_data import validate_data
    from video_llama.training.config import TrainConfig

    settings = load_config(TrainConfig, config, options or [])
    require_filled(settings, source=str(config))
    path = report or settings.run.output_dir / "validation.jsonl"
    counts = validate_data(settings, str(config), path, workers=workers)
    for each in counts:
        found = ", ".join(f"{count} {problem}" for problem, count in sorted(each.problems.items())) or "nothing wrong"
        typer.echo(f"{each.dataset}: {each.num_rows} rows, {found}")
    typer.echo(str(path))
    if any(each.num_errors for each in counts):
        raise typer.Exit(EXIT_FINDINGS)
