"""``video-llama apply-delta BASE DELTA OUT``: recover Vicuna from LLaMA and Vicuna's delta weights."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def apply_delta(
    base: Annotated[
        Path, typer.Argument(metavar="BASE", help="Folder of LLaMA in Hugging Face format.", show_default=False)
    ],
    delta: Annotated[Path, typer.Argument(metavar="DELTA", help="Folder of the delta weights.", show_default=False)],
    target: Annotated[Path, typer.Argument(metavar="OUT", help="New folder to write.", show_default=False)],
) -> None:
    """Add delta weights, such as Vicuna's, to the LLaMA weights they were computed from.

    Prints the path of the new folder.
    """
    from video_llama.checkpoints.delta import apply_delta as write

    typer.echo(str(write(base, delta, target)))
