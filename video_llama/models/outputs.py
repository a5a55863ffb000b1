"""The outputs of ``get_video_features`` and ``get_audio_features``: decoder tokens and what an encoder recorded."""

# N media, T frames or clips, P patches + 1 tokens, V encoder width, Q tokens per medium, D decoder width

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers.modeling_outputs import BaseModelOutputWithPooling


def recorded(kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of an encoder that request outputs of its layers."""
    return {name: kwargs[name] for name in ("output_hidden_states", "output_attentions") if name in kwargs}


def features_output(tokens_NQD: Tensor, seen: Sequence[Any], is_stacked: bool) -> BaseModelOutputWithPooling:
    """Return the output for N media, given the encoder's output of each medium, [T, P, V].

    ``is_stacked``: whether the media have equal lengths, so that the results are [N, T, P, V] instead of
    [sum of T, P, V].
    """
    join = torch.stack if is_stacked else torch.cat

    def joined(name: str) -> tuple[Tensor, ...] | None:
        layers = [getattr(outputs, name) for outputs in seen]
        if not layers or any(each is None for each in layers):
            return None
        return tuple(join(list(layer)) for layer in zip(*layers, strict=True))

    return BaseModelOutputWithPooling(
        last_hidden_state=join([outputs.last_hidden_state for outputs in seen]),
        pooler_output=tokens_NQD,
        hidden_states=joined("hidden_states"),
        attentions=joined("attentions"),
    )
