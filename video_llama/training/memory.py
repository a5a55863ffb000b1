"""Save memory or time without changing results: activation checkpointing and compiled decoder layers."""

from __future__ import annotations

from functools import partial

from torch import nn
from torch.utils.checkpoint import checkpoint

from video_llama.models.video_llama import VideoLlamaForConditionalGeneration


def recompute_activations(model: VideoLlamaForConditionalGeneration) -> None:
    """Store only the inputs of each decoder and sequence Q-Former layer and recompute the rest in the backward pass.

    The option of transformers has no effect on a frozen decoder, because the decoder stays in evaluation mode.
    """
    for layer in _layers(model):
        layer.forward = partial(checkpoint, layer.forward, use_reentrant=False)


def compile_decoder(model: VideoLlamaForConditionalGeneration) -> None:
    """Compile the decoder layers for rows of any length."""
    for layer in model.model.language_model.layers:
        layer.compile(dynamic=True)


def _layers(model: VideoLlamaForConditionalGeneration) -> list[nn.Module]:
    body = model.model
    qformers = [body.video_qformer, *([body.audio_qformer] if hasattr(body, "audio_qformer") else [])]
    return [*body.language_model.layers, *(layer for each in qformers for layer in each.qformer.encoder.layer)]
