"""``video-llama benchmark``: how fast this CPU runs a model in each form of its weights, and which form to choose."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from video_llama.cli.memory import GB
from video_llama.cli.options import Json, json_text

if TYPE_CHECKING:
    from video_llama.models.configuration import VideoLlamaConfig
    from video_llama.models.cpu_benchmark import Ceilings, FormSpeed


def benchmark(
    *,
    model: Annotated[
        str | None, typer.Option(metavar="MODEL", help="Model folder whose sizes are used. Weights are not read.")
    ] = None,
    size: Annotated[str, typer.Option(metavar="SIZE", help="Published size, 7b or 13b, without --model.")] = "7b",
    emulated: Annotated[
        bool, typer.Option("--emulated", help="Also measure bfloat16 where the processor emulates it, which is slow.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Measure the speed of this CPU, and name the options to choose.

    One block of each network is timed with random weights, and multiplied by the number of blocks; nothing is
    downloaded. Encoding is that of 8 frames and 8 sound clips, the first token that of a prompt of 110 tokens. Use an
    idle machine; OMP_NUM_THREADS sets the number of threads.
    """
    import torch

    from video_llama.log import progress
    from video_llama.models.cpu_benchmark import measure_ceilings, measure_forms, supported_forms

    config = _config(model, size)
    ceilings = measure_ceilings()
    forms = supported_forms(with_emulated=emulated)
    measured = list(progress(measure_forms(config, with_emulated=emulated), "measuring", len(forms)))
    memory = _machine_memory()
    best = _best(measured, memory)
    if as_json:
        chosen = None if best is None else best.name
        forms_json = [asdict(each) for each in measured]
        ceilings_json = asdict(ceilings)
        typer.echo(json_text({"ceilings": ceilings_json, "memory": memory, "forms": forms_json, "best": chosen}))
        return
    typer.echo("\n".join(_lines(ceilings, measured, memory, torch.get_num_threads())))
    typer.echo(_advice(best, memory))


def _config(model: str | None, size: str) -> VideoLlamaConfig:
    from video_llama.chat.loading import model_path
    from video_llama.checkpoints.folder import read_config
    from video_llama.models.memory import published_config

    return published_config(size) if model is None else read_config(model_path(model))


def _machine_memory() -> int | None:
    """Return the physical memory in bytes, or None where it is not known."""
    import os

    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None


def _best(measured: Sequence[FormSpeed], memory: int | None) -> FormSpeed | None:
    """Return the form with the fastest answer among those that fit into the memory."""
    fitting = [each for each in measured if memory is None or each.memory <= memory]
    return min(fitting, key=lambda each: each.answer, default=None)


def _lines(ceilings: Ceilings, measured: Sequence[FormSpeed], memory: int | None, num_threads: int) -> list[str]:
    from video_llama.models.cpu import processor

    cpu = processor()
    products = ", ".join(f"{name} {rate / GB:.0f}" for name, rate in ceilings.matrix_products.items())
    size = "unknown" if memory is None else f"{memory / GB:.1f} GB"
    columns = ("form", "encode", "first token", "tokens/s", "of bandwidth", "answer", "memory")
    rows = [columns, *(_row(each, ceilings) for each in measured)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(columns))]
    return [
        f"{cpu.name} ({', '.join(cpu.instruction_sets)}), {num_threads} threads, {size}",
        f"limits: {ceilings.read_bandwidth / GB:.1f} GB/s read; matrix products in GFLOP/s: {products}",
        *("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows),
    ]


def _row(speed: FormSpeed, ceilings: Ceilings) -> tuple[str, ...]:
    share = speed.token_bytes / speed.token.median / ceilings.read_bandwidth
    return (
        speed.name,
        _spread(speed.encode),
        _spread(speed.first_token),
        f"{1 / speed.token.median:.2f}",
        f"{100 * share:.0f} %",
        f"{speed.answer:.3g} s",
        f"{speed.memory / GB:.1f} GB",
    )


def _spread(seconds: Any) -> str:
    return f"{seconds.median:.3g} s ({seconds.least:.3g}-{seconds.most:.3g})"


def _advice(best: FormSpeed | None, memory: int | None) -> str:
    if best is None:
        assert memory is not None
        return (
            f"No form fits into {memory / GB:.1f} GB. Use --device-map auto, which keeps a part of the weights on disk."
        )
    options = " ".join(f"--{name.replace('_', '-')} {value}" for name, value in best.options.items())
    return f"Fastest that fits: {best.name}. Options: {options or 'none are needed'}"
