"""``video-llama evaluate DATA --output DIR``: answer the questions of a data set, and compute figures."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from video_llama.cli.options import Json, ModelOptions, json_text

if TYPE_CHECKING:
    from video_llama.chat import Assistant
    from video_llama.evaluation.config import BenchmarkConfig

DATA, ANSWERS, RUN = "Data and prompts", "Frames and answers", "Run"
YAML_ENDINGS = (".yaml", ".yml")
NUM_CHANGED = 20
"""Changed rows that ``--compare`` prints; ``--json`` prints all."""


@dataclass(frozen=True)
class BenchmarkOptions:
    """Fields of ``BenchmarkConfig``; None keeps the value of the YAML, or the default."""

    layout: Annotated[
        str | None,
        typer.Option(
            metavar="LAYOUT",
            help="Layout of DATA: rows, msvd-qa, msrvtt-qa, activitynet-qa, tgif-qa, music-avqa, avsd, mvbench, "
            "videochatgpt, webvid-captions or msrvtt-captions (default: rows).",
            rich_help_panel=DATA,
        ),
    ] = None
    media_dir: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Folder of the media (default: that of DATA).", rich_help_panel=DATA),
    ] = None
    limit: Annotated[int | None, typer.Option(metavar="N", help="Use the first N rows only.", rich_help_panel=DATA)] = (
        None
    )
    question: Annotated[
        str | None,
        typer.Option(
            metavar="TEXT",
            help="Prompt of open questions, with {question} (default: the question alone).",
            rich_help_panel=DATA,
        ),
    ] = None
    caption: Annotated[
        str | None,
        typer.Option(
            metavar="TEXT", help='Prompt of rows with captions (default: "Describe the video.").', rich_help_panel=DATA
        ),
    ] = None
    choices: Annotated[
        str | None,
        typer.Option(
            metavar="METHOD",
            help="How choices are made: likelihood, letter or both (default: both).",
            rich_help_panel=DATA,
        ),
    ] = None
    frames: Annotated[
        int | None,
        typer.Option(metavar="N", help="Number of frames of a video (default: the model's).", rich_help_panel=ANSWERS),
    ] = None
    fps: Annotated[
        float | None, typer.Option(metavar="FPS", help="Frames to sample per second.", rich_help_panel=ANSWERS)
    ] = None
    no_audio: Annotated[
        bool, typer.Option("--no-audio", help="Ignore the audio of the files.", rich_help_panel=ANSWERS)
    ] = False
    max_new_tokens: Annotated[
        int | None,
        typer.Option(
            metavar="N", help="Maximum length of an answer, in tokens (default: 64).", rich_help_panel=ANSWERS
        ),
    ] = None
    num_beams: Annotated[
        int | None,
        typer.Option(
            "--beams", metavar="N", help="Number of beams (default: greedy decoding).", rich_help_panel=ANSWERS
        ),
    ] = None
    batch_size: Annotated[
        int | None,
        typer.Option(metavar="N", help="Rows that are answered together (default: 8).", rich_help_panel=RUN),
    ] = None
    max_bad_share: Annotated[
        float | None,
        typer.Option(
            metavar="SHARE",
            help="Largest share of rows whose media cannot be read; they count as wrong (default: 0).",
            rich_help_panel=RUN,
        ),
    ] = None

    def config(self, data: Path) -> BenchmarkConfig:
        """Return the settings of DATA: an annotation file, or a YAML that names one. Raises ConfigError."""
        from video_llama.config import apply_overrides, load_yaml, parse_config
        from video_llama.evaluation.config import BenchmarkConfig

        values: dict[str, Any] = {"data": str(data)}
        if data.suffix in YAML_ENDINGS:
            values = load_yaml(data)
            for name in ("data", "media_dir"):
                if isinstance(values.get(name), str):
                    values[name] = str(data.parent / values[name])
        values = apply_overrides(values, [])
        for path, value in self._given().items():
            *sections, key = path.split(".")
            section = values
            for name in sections:
                section = section.setdefault(name, {})
            section[key] = value
        return parse_config(BenchmarkConfig, values, source=str(data))

    def _given(self) -> dict[str, Any]:
        methods = ["likelihood", "letter"] if self.choices == "both" else [self.choices]
        values = {
            "layout": self.layout,
            "media_dir": None if self.media_dir is None else str(self.media_dir),
            "limit": self.limit,
            "prompts.question": self.question,
            "prompts.caption": self.caption,
            "choice_methods": None if self.choices is None else methods,
            "frames.num_frames": self.frames,
            "frames.fps": self.fps,
            "frames.no_audio": self.no_audio or None,
            "answers.max_new_tokens": self.max_new_tokens,
            "answers.num_beams": self.num_beams,
            "batch_size": self.batch_size,
            "max_bad_share": self.max_bad_share,
        }
        return {name: value for name, value in values.items() if value is not None}


def evaluate(
    data: Annotated[
        Path | None,
        typer.Argument(
            metavar="[DATA]",
            help="Questions (JSON, JSONL, CSV, or a published layout), or a YAML with the settings of an evaluation.",
            show_default=False,
        ),
    ] = None,
    *,
    output: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", help="Folder of the results; an interrupted run is continued.", rich_help_panel=RUN
        ),
    ] = None,
    workers: Annotated[
        int, typer.Option(metavar="N", help="Number of processes, each with a model.", rich_help_panel=RUN)
    ] = 1,
    compare: Annotated[
        tuple[Path, Path] | None,
        typer.Option(
            "--compare", metavar="A B", help="Compare the results in two folders, row by row.", rich_help_panel=RUN
        ),
    ] = None,
    benchmark: BenchmarkOptions,
    model: ModelOptions,
    as_json: Json = False,
) -> None:
    """Evaluate a model on questions with known answers, choices or captions.

    Writes answers.jsonl, settings.json, metrics.json and metrics.png to the output folder, and prints the figures with
    95 % intervals.
    """
    if compare is not None:
        from video_llama.evaluation.compare import compare_runs, comparison_lines

        if data is not None or output is not None:
            raise ValueError("--compare takes two folders of results. Remove DATA and --output.")
        comparison = compare_runs(*compare)
        typer.echo(json_text(comparison) if as_json else "\n".join(comparison_lines(comparison, NUM_CHANGED)))
        return
    if data is None or output is None:
        raise ValueError("DATA or --output is missing. Give both, or --compare with two folders of results.")
    from video_llama.evaluation.run import evaluate as run

    summary = run(benchmark.config(data), output, partial(load_for_worker, model), workers=workers)
    counts = f"{summary['rows']} rows, {summary['errors']} with errors, {summary['not_scored']} not scored"
    typer.echo(json_text(summary) if as_json else summary_text(summary, counts))


def load_for_worker(model: ModelOptions, number: int | None) -> Assistant:
    """Load the model; worker processes are distributed over the GPUs."""
    import torch

    num_gpus = torch.cuda.device_count()
    if number is not None and num_gpus > 1 and model.device in (None, "cuda"):
        model = replace(model, device=f"cuda:{number % num_gpus}")
    return model.load()


def summary_text(summary: dict[str, Any], counts: str) -> str:
    """Return the figures as a table, with a last line of counts."""
    from video_llama.evaluation.metrics import table

    header = ("category", "figure", "value", "95 % interval", "rows")
    lines = [header, *table(summary)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
    rows = ["  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip() for line in lines]
    return "\n".join([*rows, counts])
