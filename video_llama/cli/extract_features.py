"""``video-llama extract-features CONFIG``: frozen features of a run's media, computed before it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from video_llama.cli.options import Debug


def extract_features(
    config: Annotated[Path, typer.Argument(help="The run's YAML file, with cache_features.", show_default=False)],
    options: Annotated[
        list[str] | None, typer.Option("--set", help="run.features_dir=DIR and the like; may be repeated.")
    ] = None,
    debug: Debug = False,
) -> None:
    """Compute what the frozen encoders say of each medium, once; prints the folder that training reads."""
    from video_llama.training.extraction import extract_features

    extracted = extract_features(config, options or [])
    for name, count in extracted.num_samples.items():
        typer.echo(f"{name}: {count} samples")
    typer.echo(f"{extracted.features_dir}  ({extracted.seconds:.1f} s)")
