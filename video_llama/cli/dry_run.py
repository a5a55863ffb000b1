"""``video-llama train CONFIG --dry-run``: predict the memory of a training run, without weights or GPUs."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from video_llama.cli.memory import GB
from video_llama.cli.options import Json, json_text

if TYPE_CHECKING:
    from video_llama.training.dry_run import DryRun, StepMemory

PANEL = "Dry run"
UNITS = {"": 1, "MB": 10**6, "GB": 10**9, "MIB": 2**20, "GIB": 2**30}
MAX_LISTED = 12
"""Trained parameters that the text lists; --json has all."""


@dataclass(frozen=True)
class DryRunSettings:
    """What --dry-run simulates."""

    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run",
            help="Predict the memory of each GPU and print the plan of the run. Reads no weights and no media, and "
            "writes nothing.",
            rich_help_panel=PANEL,
        ),
    ] = False
    world_size: Annotated[
        int, typer.Option(metavar="N", min=1, help="Number of GPUs, one process each.", rich_help_panel=PANEL)
    ] = 1
    gpu_memory: Annotated[
        str | None,
        typer.Option(metavar="SIZE", help="Memory of a GPU, such as 24GB or 80GB.", rich_help_panel=PANEL),
    ] = None
    size: Annotated[
        str | None,
        typer.Option(
            metavar="SIZE",
            help="Published size, 7b or 13b, in place of the model of the YAML file.",
            rich_help_panel=PANEL,
        ),
    ] = None
    tokens: Annotated[
        int | None,
        typer.Option(
            metavar="N", min=1, help="Length of a row in tokens (default: the longest row).", rich_help_panel=PANEL
        ),
    ] = None
    as_json: Json = False


def show_dry_run(path: Path, overrides: Sequence[str], settings: DryRunSettings) -> None:
    """Print the prediction and, if the run does not fit, what changes would need."""
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # DDP warns that it cannot time the simulated device
    from video_llama.training.dry_run import DryRunOptions, dry_run_from_config, remedies

    options = DryRunOptions(settings.world_size, memory_bytes(settings.gpu_memory), settings.size, settings.tokens)
    result = dry_run_from_config(path, overrides, options)
    tried: list[dict[str, Any]] = []
    if not settings.as_json:
        typer.echo(dry_run_text(result))
    if result.fits is False:
        for changes, other in remedies(path, overrides, options):
            tried.append({"set": changes, "peak": other.peak, "fits": other.fits})
            if not settings.as_json:
                verdict = "fits" if other.fits else "does not fit"
                typer.echo(f"  {other.peak / GB:8.2f} GB  {verdict:13} {' '.join(f'--set {each}' for each in changes)}")
    if settings.as_json:
        typer.echo(json_text({**result.as_dict(), "remedies": tried}))


def memory_bytes(text: str | None) -> int | None:
    """Return a size such as "80GB" in bytes. Raises ValueError for other text."""
    if text is None:
        return None
    match = re.fullmatch(r"(\d+(?:\.\d+)?) ?([A-Za-z]*)", text.strip())
    unit = match[2].upper() if match else ""
    if match is None or unit not in UNITS or float(match[1]) == 0:
        raise ValueError(f"--gpu-memory is {text!r}. Give a number with a unit, such as 24GB or 80GB.")
    return int(float(match[1]) * UNITS[unit])


def dry_run_text(result: DryRun) -> str:
    """Return the plan as text."""
    lines = [
        f"{result.world_size} {'process' if result.world_size == 1 else 'processes'} on {result.device}, "
        f"{result.num_parameters:,} parameters, {result.num_trained:,} trained",
        *_trained_lines(result),
        "",
        "memory of each process at the peak of a step",
        *(f"  {kind:24}{size / GB:8.2f} GB" for kind, size in result.largest.at_peak.items()),
        f"  {'peak of a step':24}{result.largest.peak / GB:8.2f} GB",
        f"  {'peak before the steps':24}{result.setup / GB:8.2f} GB",
        "",
        *(_dataset_line(result, step) for step in result.steps),
        f"steps per epoch: {result.steps_per_epoch or 'unknown'}",
        *(f"note: {note}" for note in result.notes),
    ]
    if result.gpu_memory is not None and result.usable is not None:
        lines.append(
            f"{result.gpu_memory / GB:.0f} GB: {'fits' if result.fits else 'does not fit'} (at most "
            f"{result.usable / GB:.1f} GB; the rest is for CUDA, NCCL and fragmentation, which are not predicted)"
        )
    if result.fits is False:
        lines.append("changes, with the peak of each:")
    return "\n".join(lines)


def _trained_lines(result: DryRun) -> list[str]:
    rows = [f"  {math.prod(shape):>12,}  {name} {list(shape)}" for name, shape in result.trained.items()]
    if len(rows) > MAX_LISTED:
        rows = [*rows[:MAX_LISTED], f"  and {len(rows) - MAX_LISTED} more (--json lists all)"]
    return rows


def _dataset_line(result: DryRun, step: StepMemory) -> str:
    batch = step.batch
    batches = batch.batch_size * result.world_size * result.accumulated_batches
    media = " and ".join(f"{each.count * batches:,} media of {each.steps} ({each.form})" for each in batch.media)
    rows = "unknown number of" if batch.num_rows is None else f"{batch.num_rows:,}"
    return (
        f"{batch.dataset}: {rows} rows; a step has up to {batch.num_tokens * batches:,} tokens "
        f"({batches} rows of {batch.num_tokens}) and {media}; peak {step.peak / GB:.2f} GB"
    )
