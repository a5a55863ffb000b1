"""``video-llama apply-delta BASE DELTA TARGET``: Vicuna out of LLaMA and Vicuna's delta."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from video_llama.cli.options import Debug


def apply_delta(
    base: Annotated[Path, typer.Argument(help="LLaMA's folder, in Hugging Face's layout.", show_default=False)],
    delta: Annotated[Path, typer.Argument(help="The delta's folder.", show_default=False)],
    target: Annotated[Path, typer.Argument(help="The new folder of the sum.", show_default=False)],
    debug: Debug = False,
) -> None:
    """Add a delta to the weights that it was made from, shard by shard; prints the new folder."""
    from video_llama.checkpoints.delta import apply_delta as write

    typer.echo(str(write(base, delta, target)))
