"""``video-llama convert SOURCE TARGET``: published weights to a model folder, and back."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from video_llama.cli import options
from video_llama.cli.options import MODEL


def convert(
    paths: Annotated[
        list[str],
        typer.Argument(
            metavar="[SOURCE] TARGET",
            help="From an evaluation YAML, a folder of published weights or hub:OWNER/NAME; to a new model folder.",
            show_default=False,
        ),
    ],
    hub: Annotated[
        str | None, typer.Option("--from", metavar="hub:OWNER/NAME", help="Download this in the place of SOURCE.")
    ] = None,
    to_reference: Annotated[
        bool, typer.Option("--to-reference", help="Back: a model folder, or trained parts, to the reference's files.")
    ] = False,
    dtype: Annotated[
        str | None,
        typer.Option(help="float32, bfloat16 or float16. (default: each tensor as it is)", rich_help_panel=MODEL),
    ] = None,
    shard_gb: Annotated[float, typer.Option(min=0.001, help="Largest file, in GB.")] = 2.0,
    overrides: options.Overrides = None,
    model_type: options.ModelType = None,
    debug: options.Debug = False,
) -> None:
    """Write a model folder from published weights, or with --to-reference the way back; prints the new folder."""
    source, target = _source_and_target(paths, hub)
    if to_reference:
        from video_llama.checkpoints.reference import to_reference as write

        if any((hub, dtype, overrides, model_type)):
            raise ValueError("--to-reference takes SOURCE and TARGET alone.")
        typer.echo(str(write(source, target)))
        return
    from video_llama.checkpoints.convert import convert as write_folder

    write_folder(
        _local(source),
        target,
        options=overrides or [],
        model_type=options.as_model_type(model_type),
        dtype=dtype,
        max_shard_bytes=round(shard_gb * 1e9),
    )
    typer.echo(target)


def _source_and_target(paths: list[str], hub: str | None) -> tuple[str, str]:
    given = [*([hub] if hub is not None else []), *paths]
    if len(given) != 2:
        raise ValueError(f"{len(given)} paths are given. Give SOURCE and TARGET, or --from hub:OWNER/NAME and TARGET.")
    return given[0], given[1]


def _local(source: str) -> Path:
    """The folder of a source; one of the hub's is downloaded."""
    from video_llama.checkpoints.hub import PREFIX, download

    return download(source) if source.startswith(PREFIX) else Path(source)
