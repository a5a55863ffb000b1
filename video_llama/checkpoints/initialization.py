"""Randomly initialize the parts that are trained from scratch: a branch's sequence Q-Former and its projection.

Source: the reference's models/video_llama.py (``__init__`` and ``init_video_Qformer``). Position embeddings and
projection have the default initialization of ``nn.Embedding`` (standard deviation 1) and ``nn.Linear``; queries and
Q-Former have BERT's: normal with its ``initializer_range`` of 0.02.
"""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import Tensor, nn

from video_llama.models.configuration import VideoLlamaConfig
from video_llama.models.qformer import SequenceQFormer

INITIALIZABLE_PARTS = tuple(
    f"model.{kind}_qformer.{part}"
    for kind in ("video", "audio")
    for part in ("qformer.", "query_tokens", "position_embeddings.", "language_projection.")
)
"""Name prefixes. Each part is initialized as a whole, or not at all."""


def initialize(config: VideoLlamaConfig, parts: Collection[str], seed: int) -> dict[str, Tensor]:
    """Return the float32 tensors of ``parts`` (of INITIALIZABLE_PARTS) by name.

    The values of a part depend only on ``seed``, not on the other parts.
    """
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
