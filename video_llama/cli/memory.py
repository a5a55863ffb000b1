"""``video-llama inspect --memory``: what a model will take, before anything is loaded."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from video_llama.models.memory import MemoryPrediction

GB = 1e9


def predicted(
    path: str | None,
    size: str | None,
    dtype: str | None,
    quantization: str | None,
    num_frames: int,
    with_audio: bool,
    num_tokens: int | None,
    overrides: Sequence[str],
) -> MemoryPrediction:
    """The prediction for a model, or for a published size; ValueError unless exactly one is given."""
    from video_llama.chat.loading import model_path
    from video_llama.checkpoints.folder import read_config
    from video_llama.checkpoints.loading import plan
    from video_llama.checkpoints.placement import resolve_placing
    from video_llama.checkpoints.published_files import is_published, read_eval_config
    from video_llama.models.memory import predict_memory, published_config

    if path is not None and size is None and is_published(model_path(path)):
        config = plan(read_eval_config(path, overrides), path).config
    elif path is not None and size is None:
        config = read_config(model_path(path))
    elif size is not None and path is None:
        config = published_config(size)
    else:
        raise ValueError("Give a model folder or --size 7b, and not both, to predict its memory.")
    placing = resolve_placing(getattr(config, "dtype", None) or "float32", dtype=dtype, quantization=quantization)
    num_clips = config.max_audio_pos if with_audio else 0
    return predict_memory(config, placing, num_frames=num_frames, num_clips=num_clips, num_tokens=num_tokens)


def memory_text(report: MemoryPrediction) -> str:
    """A line for each kind, and their sum."""
    rows = [(f"weights: {part}", size) for part, size in report.weights.items()]
    rows += [("keys and values", report.cache), ("activations, at most", report.activations), ("sum", report.total)]
    return "\n".join(f"{name:24}{size / GB:8.2f} GB" for name, size in rows)
