"""``video-llama inspect --memory``: predict how much memory a model needs, without loading it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer

from video_llama.cli.options import DTYPE_HELP

if TYPE_CHECKING:
    from video_llama.models.configuration import VideoLlamaConfig
    from video_llama.models.memory import MemoryPrediction

GB = 1e9
MEMORY = "Memory prediction"


@dataclass(frozen=True)
class MemoryOptions:
    """The model, its data type, and the length of the input for which memory is predicted."""

    memory: Annotated[
        bool,
        typer.Option(
            "--memory", help="Predict the memory that a model needs, without loading it.", rich_help_panel=MEMORY
        ),
    ] = False
    size: Annotated[
        str | None,
        typer.Option(metavar="SIZE", help="Published size, 7b or 13b, instead of a model.", rich_help_panel=MEMORY),
    ] = None
    dtype: Annotated[
        str | None, typer.Option(metavar="DTYPE", help=f"{DTYPE_HELP} (default: as stored).", rich_help_panel=MEMORY)
    ] = None
    quantization: Annotated[
        str | None,
        typer.Option(
            metavar="TYPE", help="Quantization of the language model: int8, int4 or q4_k.", rich_help_panel=MEMORY
        ),
    ] = None
    frames: Annotated[int, typer.Option(metavar="N", help="Number of video frames.", rich_help_panel=MEMORY)] = 8
    audio: Annotated[bool, typer.Option("--audio", help="Include the audio branch.", rich_help_panel=MEMORY)] = False
    tokens: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            help="Length of prompt and answer, in tokens (default: 2000, at most the context length).",
            rich_help_panel=MEMORY,
        ),
    ] = None


def predicted_memory(path: str | None, settings: MemoryOptions, overrides: Sequence[str]) -> MemoryPrediction:
    """Predict the memory of the model at ``path``, or of a published size. Raises ValueError unless one is given."""
    from video_llama.models.memory import predict_memory
    from video_llama.models.placement import LoadOptions, resolve_placing

    config = _config(path, settings.size, overrides)
    options = LoadOptions(dtype=settings.dtype, quantization=settings.quantization, is_for_inference=True)
    placing = resolve_placing(getattr(config, "dtype", None) or "float32", options)
    num_clips = config.max_audio_pos if settings.audio else 0
    return predict_memory(config, placing, num_frames=settings.frames, num_clips=num_clips, num_tokens=settings.tokens)


def _config(path: str | None, size: str | None, overrides: Sequence[str]) -> VideoLlamaConfig:
    from video_llama.chat.loading import model_path
    from video_llama.checkpoints.folder import read_config
    from video_llama.checkpoints.loading import plan
    from video_llama.checkpoints.published_files import is_published, read_eval_config
    from video_llama.models.memory import published_config

    if path is not None and size is None and is_published(model_path(path)):
        return plan(read_eval_config(path, overrides), path).config
    if path is not None and size is None:
        return read_config(model_path(path))
    if size is not None and path is None:
        return published_config(size)
    raise ValueError("--memory needs either a model or --size (7b or 13b). Give one of them.")


def memory_text(report: MemoryPrediction) -> str:
    """Return a table with a line for each kind of memory, and the total."""
    rows = [(f"weights: {part}", size) for part, size in report.weights.items()]
    rows += [("key-value cache", report.cache), ("activations (peak)", report.activations), ("total", report.total)]
    return "\n".join(f"{name:24}{size / GB:8.2f} GB" for name, size in rows)
