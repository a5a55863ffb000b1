"""Pre-train ImageBind's audio tower, so that sounds and pictures share one embedding space.

Input: the trained vision tower, whose trunk stays frozen, and sound tracks. Output: both towers. The loss is InfoNCE,
as in ImageBind. A clip of audio matches pictures of the shapes that sound in it, weighted by how long each one sounds.
"""

# N clips or pictures, S shapes, E width of the shared space

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from video_llama.log import progress
from video_llama.miniature.configuration import miniature_config, processor_settings
from video_llama.miniature.pretrain_vision import initialise, sample_pictures
from video_llama.miniature.pretraining_loop import Pretraining, fit, half_precision
from video_llama.miniature.sounds import SAMPLING_RATE, sample_sequence
from video_llama.miniature.world import DURATIONS, SHAPES
from video_llama.models.imagebind import ImageBindTower
from video_llama.processors.audio_processor import AudioProcessor

NUM_TRACKS = 600
TWO_SOUND_SHARE = 0.4
TEMPERATURE = 0.2  # 0.1 leaves a wider gap between the embeddings of sounds and pictures
VISION_HEAD_LR_SCALE = 6.0
IMAGEBIND_AUDIO = Pretraining(num_steps=500, batch_size=64, peak_lr=1e-3)


@dataclass(frozen=True)
class Sounds:
    """Audio clips and their targets."""

    mels: Tensor
    """Mel spectrograms, float32 [N, 1, bins, frames]."""
    shares: Tensor
    """Fraction of each clip in which each shape sounds, float32 [N, S]."""


def sample_sounds(seed: int, num_tracks: int = NUM_TRACKS) -> Sounds:
    """Generate tracks of one or two sounds and cut them into clips, as in inference."""
    rng = np.random.default_rng([seed, 24])
    processor = AudioProcessor(processor_settings())
    mels, shares = [], []
    for _ in progress(range(num_tracks), "generating sounds"):
        names = list(rng.permutation(SHAPES)[: 2 if rng.random() < TWO_SOUND_SHARE else 1])
        duration = float(rng.choice(DURATIONS))
        clips = processor(sample_sequence(rng, names, duration)[None], SAMPLING_RATE)
        mels.append(clips.mel)
        shares.append([_shares(names, start, clips.clip_seconds, duration) for start in clips.start_seconds])
    return Sounds(torch.from_numpy(np.concatenate(mels)), torch.tensor(shares).flatten(0, 1).float())


def _shares(names: list[str], start: float, length: float, duration: float) -> list[float]:
    """Return the fraction of a clip in which each shape sounds; the sounds divide the track evenly."""
    edges = np.linspace(0, duration, len(names) + 1)
    overlap = {
        name: max(0.0, min(end, start + length) - max(begin, start)) / length
        for name, (begin, end) in zip(names, pairwise(edges), strict=True)
    }
    return [overlap.get(shape, 0.0) for shape in SHAPES]


def binding_loss(sounds_NE: Tensor, pictures_NE: Tensor, shares_NS: Tensor, shapes_N: Tensor) -> Tensor:
    """Return InfoNCE in both directions, averaged.

    Every picture of a shape that sounds in a clip is a positive, weighted by the fraction of the clip.

    Args:
        sounds_NE: normalised embeddings of the audio clips.
        pictures_NE: normalised embeddings of the pictures.
        shares_NS: fraction of each clip in which each shape sounds.
        shapes_N: index of the shape in each picture.
    """
    logits = sounds_NE @ pictures_NE.T / TEMPERATURE
    positives = shares_NS[:, shapes_N]
    to_pictures = positives / positives.sum(1, keepdim=True).clamp(min=1e-6)
    to_sounds = (positives / positives.sum(0, keepdim=True).clamp(min=1e-6)).T
    return (functional.cross_entropy(logits, to_pictures) + functional.cross_entropy(logits.T, to_sounds)) / 2


class BindingLearner(nn.Module):
    """The audio tower and the head of the vision tower, which are trained; the vision trunk is frozen."""

    def __init__(self, vision: ImageBindTower) -> None:
        super().__init__()
        self.vision = vision.requires_grad_(False)
        self.vision.head.requires_grad_(True)
        self.audio = ImageBindTower(miniature_config().imagebind_audio_config)
        self.audio.reset_parameters(0.5)
        initialise(self.audio)

    def loss(self, mels: Tensor, shares: Tensor, pixels: Tensor, shapes: Tensor) -> tuple[Tensor, dict[str, float]]:
        """Return the loss and two figures.

        ``cosine`` is the mean cosine similarity between a sound and the mean picture of its shape; ``nearest`` is the
        fraction of sounds whose own shape is the most similar one.
        """
        with half_precision():
            sounds, pictures = self.audio(mels).embedding_NE, self.vision(pixels).embedding_NE
        sounds, pictures = sounds.float(), pictures.float()
        is_shape = functional.one_hot(shapes, len(SHAPES)).float()
        means = functional.normalize(is_shape.T @ pictures, dim=-1)
        cosines = sounds.detach() @ means.T
        single = shares.amax(1) > 0.99
        own = cosines[single].gather(1, shares[single].argmax(1, keepdim=True))
        right = cosines[single].argmax(1) == shares[single].argmax(1)
        figures = {"cosine": own.mean().item(), "nearest": right.float().mean().item()}
        return binding_loss(sounds, pictures, shares, shapes), figures


def bind(
    vision: ImageBindTower, folder: Path, seed: int, recipe: Pretraining = IMAGEBIND_AUDIO
) -> tuple[ImageBindTower, ImageBindTower]:
    """Train the audio tower and the vision head, or load finished ones, and return (vision tower, audio tower)."""
    torch.manual_seed(seed + 2)
    learner = BindingLearner(vision)
    sounds = sample_sounds(seed)

    def step_loss(step: int) -> tuple[Tensor, dict[str, float]]:
        rng = np.random.default_rng([seed, 25, step])
        chosen = torch.from_numpy(rng.choice(len(sounds.mels), recipe.batch_size, replace=False))
        pixels, targets = sample_pictures(rng, recipe.batch_size)
        return learner.loss(sounds.mels[chosen], sounds.shares[chosen], pixels, targets["shape"])

    fit("ImageBind", learner, step_loss, recipe, folder, lr_scales={"vision.head": VISION_HEAD_LR_SCALE})
    return learner.vision, learner.audio
