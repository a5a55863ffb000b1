"""Pre-training of the vision encoders: position tables, gradients, and a few steps on the real architecture."""

from pathlib import Path

import numpy as np
import pytest
import torch

from video_llama.miniature.configuration import miniature_config
from video_llama.miniature.pretrain_vision import (
    FrameLearner,
    TowerLearner,
    pretrain_frames,
    sample_pictures,
    sin_cos_positions,
)
from video_llama.miniature.pretraining_loop import Pretraining

FEW = Pretraining(num_steps=3, batch_size=4, peak_lr=1e-3, warmup_steps=1)


def test_position_embeddings_differ_and_are_zero_for_the_class_token() -> None:
    table = sin_cos_positions(128, 6)[0]
    assert table.shape == (37, 128)
    assert not table[0].any()
    assert torch.cdist(table[1:], table[1:])[~torch.eye(36, dtype=torch.bool)].min() > 0.5


def test_the_frame_encoder_trains(tmp_path: Path) -> None:
    encoder = pretrain_frames(tmp_path, seed=0, recipe=FEW)
    pixels, targets = sample_pictures(np.random.default_rng(0), 2)
    assert encoder(pixels).shape == (2, miniature_config().num_query_tokens, 128)
    assert targets["patches"].shape == (2, 36)


@pytest.mark.parametrize("learner", [FrameLearner, TowerLearner])
def test_every_part_of_an_encoder_gets_a_gradient(learner: type) -> None:
    torch.manual_seed(0)
    module = learner()
    loss, _ = module.loss(*sample_pictures(np.random.default_rng(0), 4))
    loss.backward()
    without = [name for name, p in module.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
    assert not [
        name for name in without if "tower.head." not in name
    ]  # the head of the tower is trained with the sounds
