"""The frame encoder: EVA ViT-g/14 with its final norm, and BLIP-2's frame Q-Former.

Source: Li et al. 2023 (arXiv 2301.12597) and the reference's models/{eva_vit,blip2,Qformer}.py. Both networks are
classes of transformers; tests compare them with the reference's outputs in tests/golden.
"""

# N frames, L = patches + 1 tokens, V ViT width, K queries, H Q-Former width

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import Blip2QFormerModel, Blip2VisionModel

from video_llama.models.configuration import VideoLlamaConfig


class FrameEncoder(nn.Module):
    """ViT -> LayerNorm over all tokens -> Q-Former whose learned queries cross-attend to them."""

    def __init__(self, config: VideoLlamaConfig) -> None:
        super().__init__()
        self.image_size = config.vision_config.image_size
        self.vision_model = Blip2VisionModel(config.vision_config)
        # The reference's final norm is not part of the ViT and uses PyTorch's default eps, 10 times that of its blocks.
        self.vision_model.post_layernorm.eps = config.vision_post_norm_eps
        self.query_tokens = nn.Parameter(torch.zeros(1, config.num_query_tokens, config.qformer_config.hidden_size))
        self.qformer = Blip2QFormerModel(config.qformer_config)

    def forward(self, pixel_values: Tensor) -> Tensor:
        """Encode normalised frames [N, 3, height, width] to query tokens [N, K, H].

        Raises ValueError unless height and width equal ``image_size``.
        """
        return self.encode(pixel_values)[0]

    def encode(self, pixel_values: Tensor, **kwargs: Any) -> tuple[Tensor, Any]:
        """Return the query tokens of :meth:`forward` and the ViT's output. ``kwargs`` go to the ViT."""
        if tuple(pixel_values.shape[-2:]) != (self.image_size, self.image_size):
            raise ValueError(
                f"The frame encoder expects {self.image_size}x{self.image_size} pixels, got "
                f"{pixel_values.shape[-2]}x{pixel_values.shape[-1]}."
            )
        outputs = self.vision_model(pixel_values, **kwargs)
        return self.query(outputs.last_hidden_state), outputs

    def query(self, hidden_NLV: Tensor) -> Tensor:
        """Encode the ViT's output [N, L, V] to query tokens [N, K, H]."""
        queries = self.query_tokens.expand(len(hidden_NLV), -1, -1)
        hidden_NKH: Tensor = self.qformer(query_embeds=queries, encoder_hidden_states=hidden_NLV).last_hidden_state
        return hidden_NKH
