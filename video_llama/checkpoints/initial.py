"""First values of what training makes and no published file gives: a branch's sequence Q-Former and projection.

Source: the reference's models/video_llama.py (``__init__`` and ``init_video_Qformer``): positions and projection are
torch's own ``nn.Embedding`` (standard deviation 1) and ``nn.Linear``; queries and Q-Former are BERT's, normal with its
``initializer_range`` of 0.02.
"""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import Tensor, nn

from video_llama.models.configuration import VideoLlamaConfig
from video_llama.models.qformer import SequenceQFormer

DRAWN_PARTS = tuple(
    f"model.{kind}_qformer.{part}"
    for kind in ("video", "audio")
    for part in ("qformer.", "query_tokens", "position_embeddings.", "language_projection.")
)
"""Beginnings of names: each is drawn whole, or not at all."""


def draw(config: VideoLlamaConfig, parts: Collection[str], seed: int) -> dict[str, Tensor]:
    """The tensors of some of DRAWN_PARTS by name, float32; a seed's are the same whichever parts are asked for."""
    tensors: dict[str, Tensor] = {}
    branches = {
        "video": (config.video_qformer_config, config.num_video_query_tokens, config.max_frame_pos),
        "audio": (config.audio_qformer_config, config.num_audio_query_tokens, config.max_audio_pos),
    }
    with torch.random.fork_rng(devices=[]):
        for number, (kind, (qformer, num_query_tokens, max_steps)) in enumerate(branches.items()):
            prefix = f"model.{kind}_qformer."
            if any(part.startswith(prefix) for part in parts):
                torch.manual_seed(seed + number)
                branch = SequenceQFormer(qformer, num_query_tokens, max_steps, config.text_config.hidden_size)
                nn.init.normal_(branch.query_tokens, std=qformer.initializer_range)
                tensors |= {f"{prefix}{name}": tensor for name, tensor in branch.state_dict().items()}
    return {name: tensor for name, tensor in tensors.items() if name.startswith(tuple(parts))}
