"""``video-llama inspect FILE|MODEL``: what is in a media file, or in a model folder."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from video_llama.cli import options
from video_llama.errors import CheckpointError

if TYPE_CHECKING:
    from video_llama.chat.inspection import ModelReport, PartReport

MIB = 2**20
COLUMNS = ("part", "tensors", "parameters", "dtype", "MiB", "missing", "unexpected", "misshapen", "zero", "NaN")


def inspect(
    path: Annotated[str, typer.Argument(metavar="FILE|MODEL", help="A media file, a model folder, or miniature.")],
    as_json: options.Json = False,
    debug: options.Debug = False,
) -> None:
    """Tell what a file holds and what would be looked at, or what the weights of a model are made of.

    A model that could not answer is told as an error, after its table.
    """
    from video_llama.chat import model_path
    from video_llama.chat.folder import CONFIG_FILE, MANIFEST_FILE
    from video_llama.chat.inspection import inspect_media, inspect_model

    folder = model_path(path)
    if any((folder / name).is_file() for name in (CONFIG_FILE, MANIFEST_FILE)):
        report = inspect_model(folder)
        typer.echo(_json(asdict(report)) if as_json else _model_text(report))
        if report.problem:
            raise CheckpointError(report.problem)
    else:
        media = inspect_media(Path(path))
        typer.echo(_json(media) if as_json else _media_text(media))


def _json(value: Any) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False)


def _model_text(report: ModelReport) -> str:
    rows = [COLUMNS, *(_row(part) for part in report.parts)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(COLUMNS))]
    lines = [f"{report.name} ({report.path})"]
    lines += ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    num_parameters = sum(part.parameters for part in report.parts)
    num_bytes = sum(part.bytes for part in report.parts)
    lines.append(f"{num_parameters:,} parameters, {num_bytes / MIB:.1f} MiB")
    if report.untrained_parts:
        lines.append(f"untrained, so it does not answer: {', '.join(report.untrained_parts)}")
    return "\n".join([*lines, *([report.notice] if report.notice else [])])


def _row(part: PartReport) -> tuple[str, ...]:
    faults = (part.missing, part.unexpected, part.mismatched, part.zero, part.not_finite)
    return (
        part.part,
        str(part.tensors),
        f"{part.parameters:,}",
        "/".join(part.dtypes),
        f"{part.bytes / MIB:.1f}",
        *(str(len(names)) for names in faults),
    )


def _media_text(report: dict[str, Any]) -> str:
    lines = [f"{report['path']}: {report['kind']}"]
    if "streams" in report:
        lines.append(_line("container", {key: report[key] for key in ("format", "duration", "bytes", "rotation")}))
        lines += [_line(stream.pop("type"), stream) for stream in map(dict, report["streams"])]
    sampled = report["sampled"]
    for name, why in (("frames", "why_no_frames"), ("sound", "why_no_sound")):
        if sampled[name] is not None:
            lines.append(_line(f"sampled {name}", sampled[name]))
        elif "sound_error" not in report or name != "sound":
            lines.append(f"  no {name}: {sampled[why]}")
    if "sound_error" in report:
        lines.append(f"  sound unreadable: {report['sound_error']}")
    return "\n".join(lines)


def _line(name: str, facts: dict[str, Any]) -> str:
    told = (f"{key} {_value(value)}" for key, value in facts.items() if value is not None)
    return f"  {name}: {', '.join(told)}"


def _value(value: Any) -> str:
    if isinstance(value, list):
        return " ".join(map(_value, value))
    return f"{value:.6g}" if isinstance(value, float) else str(value)
