"""A frame in, its query tokens out: EVA ViT-g/14 with its final norm, and BLIP-2's frame Q-Former.

Source: Li et al. 2023 (arXiv 2301.12597) and the reference's models/{eva_vit,blip2,Qformer}.py. Both networks are
transformers' classes; equality with the reference is tested against tests/golden.
"""

# N frames, L = patches + 1 tokens, V ViT width, K queries, H Q-Former width

from __future__ import annotations

import torch
from torch import Tensor, nn
from transformers import Blip2QFormerModel, Blip2VisionModel

from video_llama.models.configuration import VideoLlamaConfig


class FrameEncoder(nn.Module):
    """ViT -> LayerNorm over all tokens -> learned queries that read them."""

    def __init__(self, config: VideoLlamaConfig) -> None:
        super().__init__()
        self.image_size = config.vision_config.image_size
        self.vision_model = Blip2VisionModel(config.vision_config)
        # The reference's final norm is separate from the ViT and has PyTorch's default eps, ten times the blocks'.
        self.vision_model.post_layernorm.eps = config.vision_post_norm_eps
        self.query_tokens = nn.Parameter(torch.zeros(1, config.num_query_tokens, config.qformer_config.hidden_size))
        self.qformer = Blip2QFormerModel(config.qformer_config)

    def forward(self, pixel_values: Tensor) -> Tensor:
        """Encode normalised frames [N, 3, H, W] to [N, K, H]; any other height or width raises ValueError."""
        if tuple(pixel_values.shape[-2:]) != (self.image_size, self.image_size):
            raise ValueError(
                f"The frame encoder reads {self.image_size}x{self.image_size} pixels, got "
                f"{pixel_values.shape[-2]}x{pixel_values.shape[-1]}."
            )
        tokens_NLV = self.vision_model(pixel_values).last_hidden_state
        queries = self.query_tokens.expand(len(tokens_NLV), -1, -1)
        hidden_NKH: Tensor = self.qformer(query_embeds=queries, encoder_hidden_states=tokens_NLV).last_hidden_state
        return hidden_NKH
