"""``video-llama convert SOURCE OUT``: convert published weights to a model folder, and back."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from video_llama.cli.options import DTYPE_HELP, EvalOverrides, ModelTypeName, as_model_type


def convert(
    paths: Annotated[
        list[str],
        typer.Argument(
            metavar="SOURCE OUT",
            help="SOURCE: an evaluation YAML, a folder of published weights, hub:OWNER/NAME, or a .gguf file of a "
            "LLaMA. OUT: new model folder to write (for a .gguf file: decoder folder).",
            show_default=False,
        ),
    ],
    hub: Annotated[
        str | None,
        typer.Option(
            "--from", metavar="hub:OWNER/NAME", help="Download the weights from the Hugging Face Hub; replaces SOURCE."
        ),
    ] = None,
    to_reference: Annotated[
        bool,
        typer.Option(
            "--to-reference",
            help="Convert in the other direction: SOURCE is a model folder or a training checkpoint, and OUT receives "
            "the files of the original Video-LLaMA.",
        ),
    ] = False,
    dtype: Annotated[
        str | None, typer.Option(metavar="DTYPE", help=f"{DTYPE_HELP} (default: as in the source).")
    ] = None,
    shard_gb: Annotated[
        float, typer.Option(metavar="GB", min=0.001, help="Maximum size of a weight file, in GB.")
    ] = 2.0,
    init_branches: Annotated[
        bool,
        typer.Option(
            "--init-branches",
            help="Initialize the parts of the branches that are in no file randomly, for training.",
        ),
    ] = False,
    seed: Annotated[int, typer.Option(metavar="N", min=0, help="Random seed of --init-branches.")] = 42,
    model_type: ModelTypeName = None,
    overrides: EvalOverrides = None,
) -> None:
    """Convert published weights to a model folder.

    With --to-reference, convert a model folder or trained parts back to the original format. Prints the path of the
    new folder or file.
    """
    source, target = _source_and_target(paths, hub)
    if to_reference:
        from video_llama.checkpoints.export import export_to_reference as write

        if any((hub, dtype, overrides, model_type, init_branches)):
            raise ValueError("--to-reference takes only SOURCE and OUT. Remove the other options.")
        typer.echo(str(write(source, target)))
        return
    if source.endswith(".gguf"):
        from video_llama.checkpoints.gguf import decoder_from_gguf

        if any((overrides, model_type, init_branches)):
            raise ValueError("A .gguf file takes only --dtype. Remove the other options.")
        typer.echo(str(decoder_from_gguf(source, target, dtype=dtype or "float16")))
        return
    from video_llama.checkpoints.convert import convert as write_folder

    write_folder(
        _local(source),
        target,
        options=overrides or [],
        model_type=as_model_type(model_type),
        dtype=dtype,
        max_shard_bytes=round(shard_gb * 1e9),
        init_seed=seed if init_branches else None,
    )
    typer.echo(target)


def _source_and_target(paths: list[str], hub: str | None) -> tuple[str, str]:
    given = [*([hub] if hub is not None else []), *paths]
    if len(given) != 2:
        raise ValueError(f"Expected SOURCE and OUT (or --from hub:OWNER/NAME and OUT), got {len(given)} paths.")
    return given[0], given[1]


def _local(source: str) -> Path:
    """Return the local path of a source; download it if it is on the Hub."""
    from video_llama.checkpoints.hub import PREFIX, download

    return download(source) if source.startswith(PREFIX) else Path(source)
