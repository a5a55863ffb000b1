"""Pre-train the miniature's vision encoders on single pictures: the ViT with its frame Q-Former, and ImageBind's tower.

Input: random pictures. Output: trained modules. Both learn to classify colour, shape, place and size with linear heads,
which are discarded afterwards. The patch tokens of the ViT also learn whether the shape covers them.
"""

# N pictures, L = patches + 1 tokens, K queries, V vision width

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from video_llama.miniature.configuration import VISION_WIDTH, miniature_config, processor_settings
from video_llama.miniature.pretraining_loop import Pretraining, fit, half_precision
from video_llama.miniature.world import (
    COLOURS,
    FRAME_SIZE,
    NUM_PLACE_BINS,
    PATCH_SIZE,
    SHAPES,
    FrameLabels,
    sample_frame,
)
from video_llama.models.blip2 import FrameEncoder
from video_llama.models.imagebind import ImageBindTower
from video_llama.processors.video_processor import VideoProcessor

NUM_CLASSES = {
    "colour": len(COLOURS),
    "shape": len(SHAPES),
    "x_bin": NUM_PLACE_BINS,
    "y_bin": NUM_PLACE_BINS,
    "size_bin": 3,
}
PATCH_LR_SCALE = 0.03
"""Factor on the learning rate of the patch projection. At the full rate its output dominates the position embeddings,
and shape and place are not learned."""
PATCH_WEIGHT = 0.5  # weight of the patch losses relative to the picture losses

VISION = Pretraining(num_steps=2400, batch_size=48, peak_lr=1e-3)
IMAGEBIND_VISION = Pretraining(num_steps=1500, batch_size=48, peak_lr=1e-3)

Targets = dict[str, Tensor]


def initialise(module: nn.Module) -> None:
    """Initialise linear layers with variance 1 / inputs. With the usual 0.02 the signal vanishes in narrow layers."""
    for part in module.modules():
        if isinstance(part, nn.Linear):
            nn.init.normal_(part.weight, std=part.in_features**-0.5)
            if part.bias is not None:
                nn.init.zeros_(part.bias)


def sin_cos_positions(width: int, side: int) -> Tensor:
    """Return 2-D sine-cosine position embeddings [1, side * side + 1, width]; the row of the class token is zero."""
    frequencies = torch.pi * 0.5 ** torch.arange(width // 4)[None, :].clamp(max=8)
    turns = torch.arange(side)[:, None] / side * frequencies * 2
    axis = torch.cat([turns.sin(), turns.cos()], dim=1)
    down = axis[:, None].expand(side, side, -1).flatten(0, 1)
    across = axis[None].expand(side, side, -1).flatten(0, 1)
    return torch.cat([torch.zeros(1, width), torch.cat([down, across], dim=1)])[None]


class PictureHeads(nn.Module):
    """Linear classifiers of a picture, one for each property."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.heads = nn.ModuleDict({name: nn.Linear(width, count) for name, count in NUM_CLASSES.items()})

    def loss(self, features: Tensor, targets: Targets) -> Tensor:
        """Return the sum of the cross-entropies, for features [N, width]."""
        losses = [functional.cross_entropy(head(features), targets[name]) for name, head in self.heads.items()]
        return torch.stack(losses).sum()

    def accuracy(self, features: Tensor, targets: Targets) -> dict[str, float]:
        """Return the accuracy of each property, for features [N, width]."""
        return {
            name: (head(features).argmax(-1) == targets[name]).float().mean().item()
            for name, head in self.heads.items()
        }


class PatchHeads(nn.Module):
    """Linear classifiers of a patch: whether the shape covers it, and if so the shape and its colour."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.cover = nn.Linear(width, 2)
        self.shape = nn.Linear(width, len(SHAPES))
        self.colour = nn.Linear(width, len(COLOURS))

    def loss(self, patches: Tensor, targets: Targets) -> Tensor:
        """Return the sum of the cross-entropies, for patches [N, L - 1, width]."""
        is_covered = targets["patches"]
        picture = is_covered.nonzero()[:, 0]
        covered = patches[is_covered]
        return (
            functional.cross_entropy(self.cover(patches).flatten(0, 1), is_covered.long().flatten())
            + functional.cross_entropy(self.shape(covered), targets["shape"][picture])
            + functional.cross_entropy(self.colour(covered), targets["colour"][picture])
        )


def sample_pictures(rng: np.random.Generator, count: int) -> tuple[Tensor, Targets]:
    """Generate pictures: normalised pixels [N, 3, H, W] and their labels."""
    drawn = [sample_frame(rng) for _ in range(count)]
    processor = VideoProcessor.from_settings(processor_settings())
    pixels = processor(np.stack([frame.transpose(2, 0, 1) for frame, _ in drawn]))
    return torch.from_numpy(pixels), _targets([labels for _, labels in drawn])


def _targets(labels: list[FrameLabels]) -> Targets:
    targets = {name: torch.tensor([getattr(label, name) for label in labels]) for name in NUM_CLASSES}
    targets["patches"] = torch.from_numpy(np.stack([label.patch_mask.reshape(-1) for label in labels]))
    return targets


class FrameLearner(nn.Module):
    """The frame encoder with heads on the class token, on the patches and on the concatenated queries."""

    def __init__(self) -> None:
        super().__init__()
        config = miniature_config()
        self.encoder = FrameEncoder(config)
        initialise(self.encoder)
        vision = self.encoder.vision_model
        embeddings = vision.embeddings
        nn.init.normal_(embeddings.patch_embedding.weight, std=embeddings.patch_embedding.weight[0].numel() ** -0.5)
        nn.init.normal_(embeddings.class_embedding, std=0.5)
        embeddings.position_embedding.data.copy_(sin_cos_positions(VISION_WIDTH, FRAME_SIZE // PATCH_SIZE))
        nn.init.normal_(self.encoder.query_tokens, std=0.5)
        self.class_heads = PictureHeads(VISION_WIDTH)
        self.patch_heads = PatchHeads(VISION_WIDTH)
        self.query_heads = PictureHeads(VISION_WIDTH * config.num_query_tokens)

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Encode pixels [N, 3, H, W] to ViT tokens [N, L, V] and query tokens [N, K, V]."""
        tokens_NLV = self.encoder.vision_model(pixels).last_hidden_state
        queries = self.encoder.query_tokens.expand(len(tokens_NLV), -1, -1)
        return tokens_NLV, self.encoder.qformer(
            query_embeds=queries, encoder_hidden_states=tokens_NLV
        ).last_hidden_state

    def loss(self, pixels: Tensor, targets: Targets) -> tuple[Tensor, dict[str, float]]:
        """Return the sum of all losses, and the accuracies of the heads on the queries."""
        with half_precision():
            tokens_NLV, queries_NKV = self(pixels)
        tokens_NLV, queries_NW = tokens_NLV.float(), queries_NKV.float().flatten(1)
        loss = self.query_heads.loss(queries_NW, targets) + self.class_heads.loss(tokens_NLV[:, 0], targets)
        loss = loss + PATCH_WEIGHT * self.patch_heads.loss(tokens_NLV[:, 1:], targets)
        figures = self.query_heads.accuracy(queries_NW, targets)
        return loss, figures | {"class_shape": self.class_heads.accuracy(tokens_NLV[:, 0], targets)["shape"]}


class TowerLearner(nn.Module):
    """ImageBind's vision tower with heads on its class token. It shares no weights with the ViT."""

    def __init__(self) -> None:
        super().__init__()
        self.tower = ImageBindTower(miniature_config().imagebind_vision_config)
        self.tower.reset_parameters(0.5)
        initialise(self.tower)
        self.tower.position_embedding.data.copy_(sin_cos_positions(VISION_WIDTH, FRAME_SIZE // PATCH_SIZE))
        self.heads = PictureHeads(VISION_WIDTH)

    def loss(self, pixels: Tensor, targets: Targets) -> tuple[Tensor, dict[str, float]]:
        """Return the loss and the accuracies of the heads."""
        with half_precision():
            hidden = self.tower(pixels).hidden_ND
        return self.heads.loss(hidden.float(), targets), self.heads.accuracy(hidden.float(), targets)


def _fit_on_pictures(
    name: str,
    learner: FrameLearner | TowerLearner,
    folder: Path,
    rng_of: Callable[[int], np.random.Generator],
    recipe: Pretraining,
    patch_parameter: str,
) -> None:
    def step_loss(step: int) -> tuple[Tensor, dict[str, float]]:
        return learner.loss(*sample_pictures(rng_of(step), recipe.batch_size))

    fit(name, learner, step_loss, recipe, folder, lr_scales={patch_parameter: PATCH_LR_SCALE})


def pretrain_frames(folder: Path, seed: int, recipe: Pretraining = VISION) -> FrameEncoder:
    """Train the ViT and the frame Q-Former, or load finished ones from ``folder``."""
    torch.manual_seed(seed)
    learner = FrameLearner()
    _fit_on_pictures(
        "ViT and frame Q-Former",
        learner,
        folder,
        lambda step: np.random.default_rng([seed, 22, step]),
        recipe,
        "encoder.vision_model.embeddings.patch_embedding",
    )
    return learner.encoder


def pretrain_tower(folder: Path, seed: int, recipe: Pretraining = IMAGEBIND_VISION) -> ImageBindTower:
    """Train ImageBind's vision tower, or load a finished one from ``folder``."""
    torch.manual_seed(seed + 1)
    learner = TowerLearner()
    _fit_on_pictures(
        "ImageBind's vision tower",
        learner,
        folder,
        lambda step: np.random.default_rng([seed, 23, step]),
        recipe,
        "tower.patch_weight",
    )
    return learner.tower
