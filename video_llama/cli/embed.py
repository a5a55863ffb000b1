"""``video-llama embed IN OUT``: vectors of many media."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from video_llama.cli.batch import (
    BatchModelOptions,
    EngineFlags,
    RunOptions,
    SourceArgument,
    media_options,
    summary_text,
)
from video_llama.cli.options import Json, SegmentOptions, json_text


def embed(
    source: SourceArgument,
    output: Annotated[
        Path,
        typer.Argument(
            metavar="OUT",
            help="File of the vectors, .parquet or .npz; an interrupted run is continued.",
            show_default=False,
        ),
    ],
    *,
    options: RunOptions,
    engine: EngineFlags,
    segment: SegmentOptions,
    model: BatchModelOptions,
    as_json: Json = False,
) -> None:
    """Compute vectors of many videos, images or sounds, for search and clustering.

    Writes vectors of the frames, one vector of each video, and ImageBind vectors of the sound. Media that cannot be
    read are rows with an error. The same command continues an interrupted run.
    """
    from video_llama.apps.batch.embed_run import EmbedRunConfig
    from video_llama.apps.batch.inputs import BatchInput
    from video_llama.apps.batch.run import run_batch

    limits, load = options.limits_and_loader(model)
    index_dir = output.with_name(f"{output.name}.index")
    config = EmbedRunConfig(
        BatchInput(source, None, options.media_dir, index_dir, needs_question=False),
        output,
        partial(media_options, segment),
        batch_size=options.batch_size,
        workers=options.workers,
        max_bad_share=options.max_bad_share,
        limits=limits,
        engine=engine.options(),
    )
    media_options(segment, 1)  # invalid options are an error before the model is loaded
    summary = run_batch(config, load)
    typer.echo(json_text(summary) if as_json else summary_text(summary, "embedded"))
