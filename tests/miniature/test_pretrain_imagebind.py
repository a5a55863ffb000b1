"""Pre-training of ImageBind's audio tower: targets, loss and gradients."""

import numpy as np
import torch

from video_llama.miniature.configuration import EMBEDDING_SIZE
from video_llama.miniature.pretrain_imagebind import BindingLearner, binding_loss, sample_sounds
from video_llama.miniature.pretrain_vision import TowerLearner, sample_pictures


def test_shares_of_sounds_add_up_to_one() -> None:
    sounds = sample_sounds(seed=0, num_tracks=12)
    assert sounds.mels.shape == (96, 1, 128, 204)
    assert torch.allclose(sounds.shares.sum(1), torch.ones(96), atol=1e-5)
    assert (sounds.shares.amax(1) < 0.99).any()


def test_the_loss_is_lower_for_sounds_near_their_pictures() -> None:
    shapes = torch.tensor([0, 1, 0, 1])
    pictures = torch.eye(4)[shapes]
    shares = torch.eye(4)[torch.tensor([0, 1])]
    bound = binding_loss(torch.eye(4)[:2], pictures, shares, shapes)
    swapped = binding_loss(torch.eye(4)[[1, 0]], pictures, shares, shapes)
    assert bound < swapped


def test_the_vision_trunk_gets_no_gradient() -> None:
    torch.manual_seed(0)
    learner = BindingLearner(TowerLearner().tower)
    pixels, targets = sample_pictures(np.random.default_rng(0), 4)
    sounds = sample_sounds(seed=1, num_tracks=2)
    loss, figures = learner.loss(sounds.mels[:4], sounds.shares[:4], pixels, targets["shape"])
    loss.backward()
    trained = {name for name, parameter in learner.named_parameters() if parameter.grad is not None}
    assert {name for name in trained if name.startswith("vision.")} == {"vision.head.weight"}
    assert learner.audio(sounds.mels[:2]).embedding_NE.shape == (2, EMBEDDING_SIZE)
    assert -1 <= figures["cosine"] <= 1
