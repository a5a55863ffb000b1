"""``video-llama merge RUN... --into MODEL_FOLDER OUT``: combine trained parts with the model they were trained on."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from video_llama.cli.options import as_choice


def merge(
    paths: Annotated[
        list[Path],
        typer.Argument(
            metavar="RUN... OUT",
            help="RUN: training run (its newest checkpoint is used), checkpoint, or .safetensors file. "
            "OUT: new model folder to write.",
            show_default=False,
        ),
    ],
    into: Annotated[
        str,
        typer.Option(
            "--into",
            metavar="MODEL_FOLDER",
            help="Model folder to start from, which is not changed: model.pretrained of the runs, or miniature",
            show_default=False,
        ),
    ],
    quantization: Annotated[
        str | None,
        typer.Option(
            metavar="TYPE",
            help="model.quantization of the runs (int8 or int4): round the language model as they did, so that the "
            "result equals the model that was trained.",
        ),
    ] = None,
    name: Annotated[
        str | None, typer.Option(metavar="NAME", help="Name of the new model (default: the name in MODEL_FOLDER).")
    ] = None,
    notice: Annotated[
        str | None,
        typer.Option(metavar="TEXT", help="Note on the model's limitations (default: the note in MODEL_FOLDER)."),
    ] = None,
) -> None:
    """Merge training runs into a model folder.

    Writes a complete model folder that contains the trained parts, with LoRA adapters merged into the weights. Several
    runs, such as one per branch, are merged together. Prints the path of the new folder.
    """
    from video_llama.chat.loading import model_path
    from video_llama.models.packed_linear import TRAINING_QUANTIZATIONS
    from video_llama.training.merge import merge_into_folder

    *runs, out = paths
    if not runs:
        raise ValueError(f"Expected RUN... and OUT, got only {out}. Give the folder of a run first.")
    packed = as_choice("--quantization", quantization, TRAINING_QUANTIZATIONS)
    merged = merge_into_folder(runs, model_path(into), out, quantization=packed, name=name, notice=notice)
    typer.echo(str(merged))
