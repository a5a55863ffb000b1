"""The miniature's shared space: sounds are drawn to pictures of what makes them, as ImageBind binds its modalities.

In: the vision tower (trained, its trunk frozen) and sound tracks of the world. Out: both towers, with one space of
embeddings. What binds is time: a clip of sound belongs to the shapes that sound in it, and to each as long as it does.
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
from video_llama.miniature.configuration import MEL_BINS, MEL_FRAMES, NUM_CLIPS, miniature_config
from video_llama.miniature.pretrain_vision import initialise, sample_pictures
from video_llama.miniature.pretraining_loop import Pretraining, fit
from video_llama.miniature.sounds import SAMPLING_RATE, sample_sequence
from video_llama.miniature.world import DURATIONS, SHAPES
from video_llama.models.imagebind import ImageBindTower
from video_llama.processors.audio_processor import AudioProcessor
from video_llama.processors.settings import ProcessorSettings

NUM_TRACKS = 600
TWO_SOUND_SHARE = 0.4
TEMPERATURE = 0.2  # at 0.1 sounds and pictures stay apart: a wider gap between the modalities
VISION_HEAD_LR_SCALE = 6.0
IMAGEBIND_AUDIO = Pretraining(num_steps=500, batch_size=64, peak_lr=1e-3)


@dataclass(frozen=True)
class Sounds:
    """``mels`` float32 [N, 1, bins, frames], and ``shares`` [N, S]: how much of each clip each shape sounds."""

    mels: Tensor
    shares: Tensor


def sample_sounds(seed: int, num_tracks: int = NUM_TRACKS) -> Sounds:
    """Draw sound tracks of one or two sounds and cut them into clips, as serving does."""
    rng = np.random.default_rng([seed, 24])
    processor = AudioProcessor(
        ProcessorSettings(
            sampling_rate=SAMPLING_RATE, num_mel_bins=MEL_BINS, target_length=MEL_FRAMES, num_clips=NUM_CLIPS
        )
    )
    mels, shares = [], []
    for _ in progress(range(num_tracks), "drawing sounds"):
        names = list(rng.permutation(SHAPES)[: 2 if rng.random() < TWO_SOUND_SHARE else 1])
        duration = float(rng.choice(DURATIONS))
        clips = processor(sample_sequence(rng, names, duration)[None], SAMPLING_RATE)
        mels.append(clips.mel)
        shares.append([_shares(names, start, clips.clip_seconds, duration) for start in clips.start_seconds])
    return Sounds(torch.from_numpy(np.concatenate(mels)), torch.tensor(shares).flatten(0, 1).float())


def _shares(names: list[str], start: float, length: float, duration: float) -> list[float]:
    """How much of the stretch from ``start`` on each shape sounds, if the sounds divide the track evenly."""
    edges = np.linspace(0, duration, len(names) + 1)
    overlap = {
        name: max(0.0, min(end, start + length) - max(begin, start)) / length
        for name, (begin, end) in zip(names, pairwise(edges), strict=True)
    }
    return [overlap.get(shape, 0.0) for shape in SHAPES]


def binding_loss(sounds_NE: Tensor, pictures_NE: Tensor, shares_NS: Tensor, shapes_N: Tensor) -> Tensor:
    """InfoNCE in both directions; every picture of a sounding shape is right, in proportion to how long it sounds."""
    logits = sounds_NE @ pictures_NE.T / TEMPERATURE
    positives = shares_NS[:, shapes_N]
    to_pictures = positives / positives.sum(1, keepdim=True).clamp(min=1e-6)
    to_sounds = (positives / positives.sum(0, keepdim=True).clamp(min=1e-6)).T
    return (functional.cross_entropy(logits, to_pictures) + functional.cross_entropy(logits.T, to_sounds)) / 2


class BindingLearner(nn.Module):
    """The audio tower and the vision tower's head; the vision trunk is frozen."""

    def __init__(self, vision: ImageBindTower) -> None:
        super().__init__()
        self.vision = vision.requires_grad_(False)
        self.vision.head.requires_grad_(True)
        self.audio = ImageBindTower(miniature_config().imagebind_audio_config)
        self.audio.reset_parameters(0.5)
        initialise(self.audio)

    def loss(self, mels: Tensor, shares: Tensor, pixels: Tensor, shapes: Tensor) -> tuple[Tensor, dict[str, float]]:
        """The binding loss; the mean cosine of sounds with their shape's mean picture, and the share nearest to it."""
        with torch.autocast("cpu", dtype=torch.bfloat16):
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
    """Train the audio tower and the vision head, or load them if finished; returns (vision tower, audio tower)."""
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
