"""ImageBind's vision and audio towers: encode a frame or a mel clip to a vector in the shared embedding space.

Sources: Girdhar et al. 2023 (arXiv 2305.05665); for details that the paper omits (norm positions, the extra key and
value, the scale), the reference's models/ImageBind/models/imagebind_model.py and multimodal_preprocessors.py.
"""

# N media (frames or mel clips), P patches, L = P + 1 tokens, D width, E shared embedding width, H heads

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from video_llama.models.configuration import ImageBindTowerConfig

MAX_LOGIT_SCALE = 100.0
"""Upper limit of the scale, as in CLIP. The stored parameter is the logarithm of the scale."""

INITIAL_LOGIT_SCALE = 20.0


class TowerOutput(NamedTuple):
    """The output of a tower for N frames or mel clips."""

    hidden_ND: Tensor
    """The class token after the head's norm."""
    embedding_NE: Tensor
    """Its projection, of norm 1 (audio: scaled)."""
    last_hidden_state: Tensor
    """All tokens after the last block [N, L, D]."""
    hidden_states: tuple[Tensor, ...] | None = None
    """If requested: the tokens before each block and after the last, [N, L, D]."""
    attentions: tuple[Tensor, ...] | None = None
    """If requested: the attention weights of each block [N, H, L, L], or [N, H, L, L + 1] with ``bias_kv``."""


class ImageBindAttention(nn.Module):
    """Self-attention [N, L, D] -> [N, L, D]. With ``bias_kv``, tokens also attend to one learned key and value."""

    def __init__(self, config: ImageBindTowerConfig) -> None:
        super().__init__()
        width = config.hidden_size
        self.num_heads = config.num_attention_heads
        self.qkv = nn.Linear(width, 3 * width)
        self.projection = nn.Linear(width, width)
        self.bias_k = nn.Parameter(torch.zeros(1, 1, width)) if config.bias_kv else None
        self.bias_v = nn.Parameter(torch.zeros(1, 1, width)) if config.bias_kv else None

    def forward(self, tokens_NLD: Tensor, with_weights: bool = False) -> tuple[Tensor, Tensor | None]:
        """Return the tokens and, ``with_weights``, the attention weights [N, H, L, keys]."""
        query, key, value = self.qkv(tokens_NLD).chunk(3, dim=-1)
        if self.bias_k is not None and self.bias_v is not None:
            key = torch.cat([key, self.bias_k.to(key.dtype).expand(len(key), -1, -1)], dim=1)
            value = torch.cat([value, self.bias_v.to(value.dtype).expand(len(value), -1, -1)], dim=1)
        heads = [part.unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for part in (query, key, value)]
        weights = None
        if with_weights:
            query, key, value = heads
            weights = (query @ key.transpose(-1, -2) * query.shape[-1] ** -0.5).softmax(dim=-1)
            mixed = weights @ value
        else:
            mixed = functional.scaled_dot_product_attention(*heads)
        return self.projection(mixed.transpose(1, 2).flatten(2)), weights


class ImageBindBlock(nn.Module):
    """A pre-norm transformer block [N, L, D] -> [N, L, D]."""

    def __init__(self, config: ImageBindTowerConfig) -> None:
        super().__init__()
        width, hidden = config.hidden_size, config.intermediate_size
        self.norm1 = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.attention = ImageBindAttention(config)
        self.norm2 = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, tokens_NLD: Tensor, with_weights: bool = False) -> tuple[Tensor, Tensor | None]:
        mixed_NLD, weights = self.attention(self.norm1(tokens_NLD), with_weights)
        tokens_NLD = tokens_NLD + mixed_NLD
        hidden_NLD: Tensor = self.fc2(functional.gelu(self.fc1(self.norm2(tokens_NLD))))
        return tokens_NLD + hidden_NLD, weights


class ImageBindTower(nn.Module):
    """Patches -> [norm] -> class token + positions -> [norm] -> blocks -> class token -> head -> shared space.

    The reference's audio trunk has drop path. It is omitted, since the trunk is frozen and always in evaluation mode.
    """

    def __init__(self, config: ImageBindTowerConfig) -> None:
        super().__init__()
        self.config = config
        width = config.hidden_size
        self.input_size = tuple(config.input_size)
        self.stride = config.stride
        kernel = (*filter(None, (config.temporal_kernel,)), *config.kernel_size)
        self.patch_weight = nn.Parameter(torch.empty(width, config.num_channels, *kernel))
        self.stem_norm = nn.LayerNorm(width, eps=config.stem_norm_eps) if config.stem_norm else nn.Identity()
        self.class_token = nn.Parameter(torch.zeros(1, 1, width))
        self.position_embedding = nn.Parameter(torch.zeros(1, config.num_patches + 1, width))
        self.pre_norm = nn.LayerNorm(width, eps=config.layer_norm_eps) if config.pre_norm else nn.Identity()
        self.blocks = nn.ModuleList(ImageBindBlock(config) for _ in range(config.num_hidden_layers))
        self.head_norm = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.head = nn.Linear(width, config.embedding_size, bias=False)
        self.log_logit_scale: Tensor | None
        self.register_buffer(
            "log_logit_scale", torch.tensor(math.log(INITIAL_LOGIT_SCALE)) if config.logit_scale else None
        )

    @torch.no_grad()
    def reset_parameters(self, std: float) -> None:
        """Initialise this module's own parameters. ``std``: standard deviation of tokens and positions."""
        nn.init.normal_(self.patch_weight, std=self.patch_weight[0].numel() ** -0.5)
        for parameter in (self.class_token, self.position_embedding):
            nn.init.normal_(parameter, std=std)
        for name, parameter in self.blocks.named_parameters():
            if name.endswith(("bias_k", "bias_v")):
                nn.init.normal_(parameter, std=std)
        if self.log_logit_scale is not None:
            self.log_logit_scale.fill_(math.log(INITIAL_LOGIT_SCALE))

    def forward(
        self, media_NCHW: Tensor, output_hidden_states: bool | None = None, output_attentions: bool | None = None
    ) -> TowerOutput:
        """Encode normalised frames [N, 3, H, W] or mel clips [N, 1, mel bins, frames].

        ``output_hidden_states`` and ``output_attentions`` request the outputs of the blocks; None is the value of the
        configuration.

        Raises ValueError unless the last two dimensions equal ``input_size``.
        """
        tokens_NLD = self.embed(media_NCHW)
        with_weights = self.config.output_attentions if output_attentions is None else output_attentions
        with_states = self.config.output_hidden_states if output_hidden_states is None else output_hidden_states
        states, attentions = [tokens_NLD], []
        for block in self.blocks:
            tokens_NLD, weights = block(tokens_NLD, bool(with_weights))
            if with_states:
                states.append(tokens_NLD)
            attentions.append(weights)
        return TowerOutput(
            *self.project(tokens_NLD),
            tokens_NLD,
            tuple(states) if with_states else None,
            tuple(attentions) if with_weights else None,
        )

    def embed(self, media_NCHW: Tensor) -> Tensor:
        """Return the input of the first block [N, L, D]. Raises ValueError as :meth:`forward`."""
        if tuple(media_NCHW.shape[-2:]) != self.input_size:
            raise ValueError(f"ImageBind's tower expects {self.input_size}, got {tuple(media_NCHW.shape[-2:])}.")
        # A single frame is repeated to fill the temporal kernel; summing the kernel over time is equivalent.
        weight = self.patch_weight.sum(dim=2) if self.patch_weight.dim() == 5 else self.patch_weight
        patches = functional.conv2d(media_NCHW.to(weight.dtype), weight, stride=self.stride)
        patches_NPD = self.stem_norm(patches.flatten(2).transpose(1, 2))
        tokens_NLD = torch.cat([self.class_token.expand(len(patches_NPD), -1, -1), patches_NPD], dim=1)
        return self.pre_norm(tokens_NLD + self.position_embedding)  # type: ignore[no-any-return]

    def project(self, tokens_NLD: Tensor) -> tuple[Tensor, Tensor]:
        """Return the normalized class token [N, D] and the embedding [N, E] of the last block's output."""
        hidden_ND = self.head_norm(tokens_NLD[:, 0])
        embedding_NE = functional.normalize(self.head(hidden_ND), dim=-1)
        if self.log_logit_scale is not None:
            embedding_NE = embedding_NE * self.log_logit_scale.exp().clamp(max=MAX_LOGIT_SCALE)
        return hidden_ND, embedding_NE
