"""``video-llama batch IN OUT``: answer a question about each of many media."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from video_llama.cli.ask_windows import PlanOptions
from video_llama.cli.evaluate import load_for_worker
from video_llama.cli.options import (
    ENGINE,
    MODEL,
    DecodingOptions,
    Json,
    ModelOptions,
    RayFlags,
    SegmentOptions,
    json_text,
)
from video_llama.cli.serve import split_overrides

if TYPE_CHECKING:
    from video_llama.apps.batch.engines import EngineOptions
    from video_llama.apps.batch.limits import BatchLimits
    from video_llama.chat import Assistant
    from video_llama.processors.medium import MediaOptions

RUN = "Run"

SourceArgument = Annotated[
    str,
    typer.Argument(
        metavar="IN",
        help="Folder of media, pattern in quotes, table of rows (JSONL, JSON, CSV, TSV), or tar shards.",
        show_default=False,
    ),
]


@dataclass(frozen=True)
class BatchModelOptions(ModelOptions):
    """The model's options. ``--set`` takes the limits of reading media as well."""

    overrides: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="Set a limit of reading media, such as media_workers=4, or override a key of the evaluation YAML, "
            "such as model.ckpt=FILE. Repeatable.",
            show_default=False,
            rich_help_panel=MODEL,
        ),
    ] = None


@dataclass(frozen=True)
class RunOptions:
    """How a run works: batches, processes, errors."""

    workers: Annotated[
        int, typer.Option(metavar="N", help="Number of processes, each with a model.", rich_help_panel=RUN)
    ] = 1
    batch_size: Annotated[
        int, typer.Option(metavar="N", help="Rows that are answered together.", rich_help_panel=RUN)
    ] = 8
    media_dir: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Folder of the relative paths in a table (default: that of the table).",
            rich_help_panel=RUN,
        ),
    ] = None
    allow_host: Annotated[
        list[str] | None,
        typer.Option(
            metavar="HOST",
            help="Host from which media may be downloaded (default: all hosts with public addresses). Repeatable.",
            rich_help_panel=RUN,
        ),
    ] = None
    retries: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            help="Further attempts after a failed download or a crashed decoder (default: 2).",
            rich_help_panel=RUN,
        ),
    ] = None
    max_bad_share: Annotated[
        float,
        typer.Option(
            metavar="SHARE", help="Largest share of rows with errors; the run ends beyond it.", rich_help_panel=RUN
        ),
    ] = 1.0

    def limits_and_loader(self, model: BatchModelOptions) -> tuple[BatchLimits, Callable[[int | None], Assistant]]:
        """Return the limits of reading media, and the function that loads the model of a worker.

        Raises ConfigError for an unknown limit.
        """
        from video_llama.apps.batch.limits import BatchLimits
        from video_llama.config import apply_overrides, parse_config

        limits, overrides = split_overrides(model.overrides or [])
        values = apply_overrides({}, limits)
        if self.allow_host:
            values["allowed_hosts"] = self.allow_host
        if self.retries is not None:
            values["retries"] = self.retries
        load = partial(load_for_worker, ModelOptions(**vars(replace(model, overrides=overrides))))
        return parse_config(BatchLimits, values, source="batch"), load


@dataclass(frozen=True)
class EngineFlags(RayFlags):
    """Where a run works: the processes of this machine, or Ray."""

    max_workers: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            help="Ray: number of workers to which the pool may grow (default: --workers).",
            rich_help_panel=ENGINE,
        ),
    ] = None

    def options(self) -> EngineOptions:
        """Return the options of the engine. Raises ValueError for an unknown name."""
        from video_llama.apps.batch.engines import EngineOptions

        return EngineOptions(self.engine_name(), self.max_workers, **self.resources())


def batch(
    source: SourceArgument,
    output: Annotated[
        Path,
        typer.Argument(
            metavar="OUT",
            help="File of the results, .jsonl or .parquet; an interrupted run is continued.",
            show_default=False,
        ),
    ],
    *,
    question: Annotated[
        str | None,
        typer.Option(
            metavar="TEXT", help="Question about each medium; rows with a question keep theirs.", rich_help_panel=RUN
        ),
    ] = None,
    options: RunOptions,
    engine: EngineFlags,
    segment: SegmentOptions,
    windows: PlanOptions,
    decoding: DecodingOptions,
    model: BatchModelOptions,
    as_json: Json = False,
) -> None:
    """Answer a question about each of many videos, images or sounds.

    Writes one row per medium and question with the keys id, media, question, answer, error and record. Media that
    cannot be read are rows with an error. The same command continues an interrupted run. With --window or --scenes,
    each medium is divided, and its row has a timeline.
    """
    from video_llama.apps.batch.inputs import BatchInput
    from video_llama.apps.batch.run import BatchRunConfig, run_batch

    limits, load = options.limits_and_loader(model)
    config = BatchRunConfig(
        BatchInput(source, question, options.media_dir, output.with_name(f"{output.name}.index")),
        output,
        partial(media_options, segment),
        decoding.settings(),
        options.batch_size,
        options.workers,
        options.max_bad_share,
        limits,
        engine.options(),
        windows.plan(segment),
    )
    media_options(segment, 1)  # invalid options are an error before the model is loaded
    summary = run_batch(config, load)
    typer.echo(json_text(summary) if as_json else summary_text(summary))


def media_options(segment: SegmentOptions, default_frames: int) -> MediaOptions:
    """Return how media are read. Raises ValueError for options that exclude each other."""
    from video_llama.processors.medium import MediaOptions

    return MediaOptions(**segment.media_fields(default_frames))


def summary_text(summary: dict[str, Any], done: str = "answered") -> str:
    """Return the counts and, if anything was answered, the speed of a run and what it was bound by."""
    lines = [
        f"{summary['output']}: {summary['rows']} rows, {summary['answers']} {done}, {summary['errors']} with errors",
    ]
    if not summary["new_rows"]:
        return "\n".join([*lines, f"All rows were {done} before."])
    stages = ", ".join(f"{name} {seconds:.1f} s" for name, seconds in summary["stages"].items() if seconds >= 0.05)
    workers, media_workers = summary["workers"], summary["media_workers"]
    return "\n".join(
        [
            *lines,
            f"{summary['new_rows']} new rows about {summary['media']} media ({summary['media_seconds']:.1f} s) in "
            f"{summary['seconds']:.1f} s: {summary['media_per_second']:.2f} media/s",
            f"{stages} (fetch and decode: sum of {media_workers} processes; encode and generate: sum of {workers}); "
            f"the model waited {summary['waited_for_media']:.1f} s for media; bound by {summary['bound']}"
            + (f"; {summary['retries']} retries" if summary["retries"] else ""),
        ]
    )
