"""The training loop: schedule, checkpoints, exact resuming and errors."""

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from video_llama.errors import CheckpointError
from video_llama.miniature import pretraining_loop
from video_llama.miniature.pretraining_loop import Pretraining, fit, learning_rate
from video_llama.models import cpu as cpu_module
from video_llama.models.cpu import Processor

RECIPE = Pretraining(num_steps=30, batch_size=8, peak_lr=0.05, warmup_steps=5)


def line_loss(module: nn.Module, stop_at: int | None = None):
    """Return the loss of fitting y = 3x. Raises KeyboardInterrupt at the step ``stop_at``."""

    def loss(step: int) -> tuple[torch.Tensor, dict[str, float]]:
        if step == stop_at:
            raise KeyboardInterrupt
        inputs = torch.randn(RECIPE.batch_size, 1, generator=torch.Generator().manual_seed(step))
        return (module(inputs) - 3 * inputs).square().mean(), {}

    return loss


def fresh() -> nn.Module:
    torch.manual_seed(0)
    return nn.Linear(1, 1)


def test_learning_rate_warms_up_and_decays() -> None:
    rates = [learning_rate(RECIPE, step) for step in range(RECIPE.num_steps)]
    assert rates[0] < rates[4]
    assert max(rates) <= RECIPE.peak_lr
    assert rates[4:] == sorted(rates[4:], reverse=True)
    assert rates[-1] == pytest.approx(pretraining_loop.FINAL_LR_SHARE * RECIPE.peak_lr, rel=0.1)


def test_the_loss_decreases_and_every_step_has_a_row(tmp_path: Path) -> None:
    module = fresh()
    fit("line", module, line_loss(module), RECIPE, tmp_path)
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == list(range(RECIPE.num_steps))
    assert rows[-1]["loss"] < 0.25 * rows[0]["loss"]
    assert not module.training


def test_a_resumed_run_equals_an_uninterrupted_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = fresh()
    fit("line", whole, line_loss(whole), RECIPE, tmp_path / "whole")
    monkeypatch.setattr(pretraining_loop, "SAVE_EVERY_SECONDS", 0.0)  # a checkpoint at every step
    cut = fresh()
    with pytest.raises(KeyboardInterrupt):
        fit("line", cut, line_loss(cut, stop_at=12), RECIPE, tmp_path / "cut")
    again = fresh()
    fit("line", again, line_loss(again), RECIPE, tmp_path / "cut")
    for name, tensor in whole.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name])


def test_a_finished_run_is_only_loaded(tmp_path: Path) -> None:
    module = fresh()
    fit("line", module, line_loss(module), RECIPE, tmp_path)
    again = fresh()
    fit("line", again, line_loss(again, stop_at=0), RECIPE, tmp_path)
    assert torch.equal(module.weight, again.weight)


def test_a_checkpoint_with_other_hyperparameters_is_an_error(tmp_path: Path) -> None:
    module = fresh()
    fit("line", module, line_loss(module), RECIPE, tmp_path)
    other = Pretraining(num_steps=31, batch_size=8, peak_lr=0.05)
    with pytest.raises(CheckpointError, match="Delete it or use another folder"):
        fit("line", fresh(), line_loss(module), other, tmp_path)


def test_a_loss_that_is_not_finite_is_an_error(tmp_path: Path) -> None:
    module = fresh()
    with pytest.raises(CheckpointError, match="the loss of step 0 is nan"):
        fit("line", module, lambda step: (module.weight.sum() * float("nan"), {}), RECIPE, tmp_path)


def test_learning_rate_factors_apply_to_the_named_parameters(tmp_path: Path) -> None:
    module = nn.ModuleDict({"slow": nn.Linear(1, 1, bias=False), "quick": nn.Linear(1, 1, bias=False)})
    before = {name: parameter.detach().clone() for name, parameter in module.named_parameters()}
    one_step = Pretraining(num_steps=1, batch_size=1, peak_lr=0.1, warmup_steps=1, weight_decay=0.0)

    def loss(step: int) -> tuple[torch.Tensor, dict[str, float]]:
        return sum(parameter.sum() for parameter in module.parameters()), {}

    fit("two", module, loss, one_step, tmp_path, lr_scales={"slow": 0.01})
    moved = {name: (parameter - before[name]).abs().item() for name, parameter in module.named_parameters()}
    assert moved["slow.weight"] == pytest.approx(0.01 * moved["quick.weight"], rel=1e-3)


@pytest.mark.parametrize(("has_bfloat16", "expected"), [(True, torch.bfloat16), (False, torch.float32)])
def test_bfloat16_only_where_the_processor_multiplies_it(monkeypatch, has_bfloat16, expected):
    cpu = Processor("test", ("avx2",), has_bfloat16=has_bfloat16, has_fbgemm=True)
    monkeypatch.setattr(cpu_module, "processor", lambda: cpu)
    with pretraining_loop.half_precision():
        assert nn.Linear(4, 4)(torch.ones(2, 4)).dtype is expected
