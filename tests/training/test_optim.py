"""Learning rate schedules, compared with values of the reference (golden lr_schedule.json), and weight decay."""

import math
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from video_llama.training.config import RunConfig
from video_llama.training.optim import is_decayed, make_optimizer, make_schedule

AUDIO_STAGE_2 = dict(max_epoch=3, init_lr=3e-5, min_lr=1e-5, warmup_lr=1e-6, warmup_steps=400)
STAGE_1 = dict(max_epoch=5, init_lr=1e-4, min_lr=8e-5, warmup_lr=1e-6, warmup_steps=2500)
LONG_WARM_UP = dict(AUDIO_STAGE_2, warmup_steps=250)


def run_config(**changes: object) -> RunConfig:
    return RunConfig.model_validate({"output_dir": Path("run"), **changes})


@pytest.mark.parametrize(
    ("settings", "steps_per_epoch", "step", "rate"),
    [
        (AUDIO_STAGE_2, 1000, 0, 1e-06),
        (AUDIO_STAGE_2, 1000, 399, 2.99275e-05),
        (AUDIO_STAGE_2, 1000, 400, 2.9135454576426005e-05),  # the jump from the warm-up to the cosine
        (AUDIO_STAGE_2, 1000, 1500, 2e-05),
        (AUDIO_STAGE_2, 1000, 2999, 1.0000005483113056e-05),
        (STAGE_1, 2500, 1250, 5.05e-05),
        (STAGE_1, 2500, 2500, 9.809016994374948e-05),
        (STAGE_1, 2500, 12499, 8.000000031582734e-05),
        (LONG_WARM_UP, 100, 99, 1.2484e-05),
        (LONG_WARM_UP, 100, 100, 1e-06),  # a warm-up longer than an epoch restarts
        (LONG_WARM_UP, 100, 249, 6.684e-06),
    ],
)
def test_reference_schedule(settings: dict[str, float], steps_per_epoch: int, step: int, rate: float) -> None:
    schedule = make_schedule(run_config(lr_sched="reference_warmup_cosine", **settings), steps_per_epoch)
    assert schedule(step) == pytest.approx(rate, rel=1e-12)  # the same formula in the same precision


@given(st.integers(0, 50), st.integers(1, 5), st.integers(10, 40))
def test_the_documented_schedule_is_continuous_and_bounded(warmup: int, epochs: int, steps: int) -> None:
    run = run_config(max_epoch=epochs, init_lr=1.0, min_lr=0.03, warmup_lr=0.1, warmup_steps=warmup)
    rates = [make_schedule(run, steps)(step) for step in range(epochs * steps)]
    assert all(0.03 - 1e-12 <= rate <= 1 + 1e-12 for rate in rates)
    rising, falling = rates[:warmup], rates[warmup:]
    assert rising == sorted(rising)
    assert falling == sorted(falling, reverse=True)
    if falling:
        assert falling[0] == 1.0
        length = epochs * steps - warmup
        assert falling[-1] == pytest.approx(0.03 + 0.97 * 0.5 * (1 + math.cos(math.pi * (length - 1) / length)))


def test_a_negative_warmup_lr_disables_the_warm_up() -> None:
    assert make_schedule(run_config(init_lr=0.5, warmup_lr=-1.0, warmup_steps=10), 100)(0) == 0.5


def test_weight_decay_applies_only_to_trained_matrices() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.LayerNorm(2), torch.nn.Linear(2, 2))
    model[2].requires_grad_(False)
    optimizer = make_optimizer(model.named_parameters(), run_config(weight_decay=0.05, betas=(0.9, 0.98)))
    decayed, others = optimizer.param_groups
    assert [tuple(parameter.shape) for parameter in decayed["params"]] == [(2, 3)]
    assert (decayed["weight_decay"], others["weight_decay"]) == (0.05, 0.0)
    assert len(others["params"]) == 3
    assert decayed["betas"] == (0.9, 0.98)


@pytest.mark.parametrize(
    ("name", "dimensions", "decays"),
    [
        ("query_tokens", 3, True),
        ("norm.weight", 1, False),
        ("attention.bias_k", 3, False),
        ("ln_vision.weight", 2, False),
    ],
)
def test_decay_rule(name: str, dimensions: int, decays: bool) -> None:
    assert is_decayed(name, dimensions) is decays
