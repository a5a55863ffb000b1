"""Less memory or less time for the same numbers: activations computed again, and compiled decoder layers."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from torch.utils.checkpoint import checkpoint

if TYPE_CHECKING:
    from torch import nn

    from video_llama.models.video_llama import VideoLlamaForConditionalGeneration


def recompute_activations(model: VideoLlamaForConditionalGeneration) -> None:
    """Keep only what goes into each decoder and sequence Q-Former layer; the backward pass runs the layer again.

    transformers' own switch acts in training mode only, and a frozen decoder stays in evaluation mode.
    """
    for layer in _layers(model):
        layer.forward = partial(checkpoint, layer.forward, use_reentrant=False)


def compile_decoder(model: VideoLlamaForConditionalGeneration) -> None:
    """Compile the decoder's layers, for rows of any length."""
    for layer in model.model.language_model.layers:
        layer.compile(dynamic=True)


def _layers(model: VideoLlamaForConditionalGeneration) -> list[nn.Module]:
    body = model.model
    qformers = [body.video_qformer, *([body.audio_qformer] if hasattr(body, "audio_qformer") else [])]
    return [*body.language_model.layers, *(layer for each in qformers for layer in each.qformer.encoder.layer)]
