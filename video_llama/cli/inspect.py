"""``video-llama inspect``: show the contents of a media file, a model folder, or published weights."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from video_llama.cli.memory import MemoryOptions, memory_text, predicted_memory
from video_llama.cli.options import EvalOverrides, Json, ModelTypeName, as_model_type, json_text
from video_llama.errors import CheckpointError

if TYPE_CHECKING:
    from video_llama.checkpoints.config import ModelType
    from video_llama.checkpoints.inspection import NamesReport
    from video_llama.checkpoints.part_reports import ModelReport, PartReport

MIB = 2**20
COLUMNS = (
    *("part", "file", "tensors", "parameters", "dtype", "MiB"),
    *("missing", "unexpected", "misshapen", "zero", "NaN", "sha256"),
)
NUM_HASH_DIGITS = 12
"""Length of the hashes in the table; complete hashes are listed below it."""
NO_FILE = "missing"
EXIT_LEFT_OVER = 1


def inspect(
    path: Annotated[
        str | None,
        typer.Argument(
            metavar="FILE|MODEL",
            help="Media file or folder of frames; or model: miniature, a model folder, an evaluation YAML, a folder of "
            "published weights, or one weight file.",
        ),
    ] = None,
    *,
    names: Annotated[
        Path | None,
        typer.Option(
            metavar="JSON",
            help="Map the tensor names in a list (full_keys.json) from the original Video-LLaMA to this package and "
            "back, instead of inspecting a file.",
        ),
    ] = None,
    model_type: ModelTypeName = None,
    overrides: EvalOverrides = None,
    as_json: Json = False,
    memory: MemoryOptions,
) -> None:
    """Show what a media file or a model contains.

    For a media file: its streams, and the frames and audio clips that would be sampled. For a model: the files,
    tensors, data types and hashes of each part, and the problems found. Exits with 2 if the model cannot be used, and
    with 1 if --names leaves a name unmapped.
    """
    if names is not None:
        _inspect_names(names, as_json)
        return
    if memory.memory:
        prediction = predicted_memory(path, memory, overrides or [])
        typer.echo(json_text(prediction.as_dict()) if as_json else memory_text(prediction))
        return
    if path is None:
        raise ValueError("Nothing to inspect. Give a media file, a model, or --names JSON.")
    report = _model_report(path, overrides or [], as_model_type(model_type))
    if report is None:
        _inspect_media(path, as_json)
        return
    typer.echo(json_text(asdict(report)) if as_json else _model_text(report))
    if report.problem:
        raise CheckpointError(report.problem)


def _model_report(path: str, overrides: list[str], model_type: ModelType | None) -> ModelReport | None:
    """Return the report of a model, in any of its formats; None if ``path`` can only be a media file."""
    from video_llama.chat.loading import model_path
    from video_llama.checkpoints.files import PICKLES, SAFETENSORS
    from video_llama.checkpoints.folder import CONFIG_FILE
    from video_llama.checkpoints.inspection import inspect_file, inspect_sources
    from video_llama.checkpoints.part_reports import inspect_model
    from video_llama.checkpoints.published_files import is_published
    from video_llama.processors.images import has_pictures
    from video_llama.processors.media_file import is_folder

    folder = model_path(path)
    if is_folder(folder) and has_pictures(folder) and not any(folder.glob(f"*/{CONFIG_FILE}")):
        return None
    if is_published(folder):
        return inspect_sources(folder, overrides, model_type)
    if folder.is_dir():
        return inspect_model(folder)
    if folder.suffix in (SAFETENSORS, *PICKLES):
        return inspect_file(folder)
    return None


def _inspect_media(path: str, as_json: bool) -> None:
    from video_llama.processors.inspection import inspect_media

    media = inspect_media(Path(path))
    typer.echo(json_text(media) if as_json else _media_text(media))


def _inspect_names(path: Path, as_json: bool) -> None:
    from video_llama.checkpoints.inspection import inspect_names

    reports = inspect_names(path)
    typer.echo(json_text([asdict(report) for report in reports]) if as_json else "\n".join(map(_names_text, reports)))
    if any(report.left_over for report in reports):
        raise typer.Exit(EXIT_LEFT_OVER)


def _names_text(report: NamesReport) -> str:
    counts = f"{report.num_keys} names, {report.num_ours} mapped tensors, {report.num_ignored} known and not needed"
    lines = [f"{report.name}: {counts}, {len(report.left_over)} unmapped"]
    return "\n".join([*lines, *(f"  {each}" for each in report.left_over)])


def _model_text(report: ModelReport) -> str:
    rows = [COLUMNS, *(_row(part) for part in report.parts)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(COLUMNS))]
    lines = [f"{report.name} ({report.path})"]
    lines += ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    num_parameters = sum(part.parameters for part in report.parts)
    num_bytes = sum(part.bytes for part in report.parts)
    lines.append(f"{num_parameters:,} parameters, {num_bytes / MIB:.1f} MiB")
    lines += [f"sha256 {hashed}  {file}" for file, hashed in _hashes(report).items()]
    for file, counts in report.leftovers.items():
        owners = ", ".join(f"{owner} {count}" for owner, count in sorted(counts.items()))
        lines.append(f"{file}: known and not needed: {owners or 'nothing'}")
    if report.arithmetic:
        lines.append("on this CPU: " + "; ".join(f"{part} {form}" for part, form in report.arithmetic.items()))
    if report.untrained_parts:
        lines.append(f"untrained parts (the model cannot be used): {', '.join(report.untrained_parts)}")
    return "\n".join([*lines, *([report.notice] if report.notice else [])])


def _row(part: PartReport) -> tuple[str, ...]:
    if not any((part.files, part.missing, part.unexpected)):
        return (part.part, NO_FILE, *[""] * (len(COLUMNS) - 2))
    faults = (part.missing, part.unexpected, part.mismatched, part.zero, part.not_finite)
    return (
        part.part,
        _one_or_count(list(part.files)),
        str(part.tensors),
        f"{part.parameters:,}",
        "/".join(part.dtypes),
        f"{part.bytes / MIB:.1f}",
        *(str(len(names)) for names in faults),
        _one_or_count([hashed[:NUM_HASH_DIGITS] for hashed in part.files.values()]),
    )


def _one_or_count(texts: list[str]) -> str:
    return texts[0] if len(texts) == 1 else f"{len(texts)} files"


def _hashes(report: ModelReport) -> dict[str, str]:
    return {file: hashed for part in report.parts for file, hashed in part.files.items()}


def _media_text(report: dict[str, Any]) -> str:
    lines = [f"{report['path']}: {report['kind']}"]
    if "streams" in report:
        lines.append(_line("container", {key: report[key] for key in ("format", "duration", "bytes", "rotation")}))
        lines += [_line(stream.pop("type"), stream) for stream in map(dict, report["streams"])]
    sampled = report["sampled"]
    for key, name, reason in (("frames", "frames", "why_no_frames"), ("sound", "audio", "why_no_sound")):
        if sampled[key] is not None:
            lines.append(_line(f"sampled {name}", sampled[key]))
        elif "sound_error" not in report or key != "sound":
            lines.append(f"  no {name}: {sampled[reason]}")
    if "sound_error" in report:
        lines.append(f"  audio cannot be read: {report['sound_error']}")
    return "\n".join(lines)


def _line(name: str, facts: dict[str, Any]) -> str:
    shown = (f"{key} {_value(value)}" for key, value in facts.items() if value is not None)
    return f"  {name}: {', '.join(shown)}"


def _value(value: Any) -> str:
    if isinstance(value, list):
        return " ".join(map(_value, value))
    return f"{value:.6g}" if isinstance(value, float) else str(value)
