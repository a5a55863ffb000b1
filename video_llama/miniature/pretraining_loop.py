"""The loop of every pre-training: steps with AdamW and a cosine, progress, metrics, and a checkpoint to go on from.

In: a module, a loss of a step, a recipe. Out: the trained module, and in its folder ``state.pt`` and
``metrics.jsonl``. Every step draws its data from its own number, so a run that was cut off goes on as if it had not.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from video_llama.errors import CheckpointError
from video_llama.files import new_file
from video_llama.log import logger, progress

FINAL_LR_SHARE = 0.03
BETAS = (0.9, 0.98)
MAX_GRADIENT_NORM = 1.0
SAVE_EVERY_SECONDS = 60.0
STATE_FILE = "state.pt"


@dataclass(frozen=True)
class Pretraining:
    """One pre-training: ``num_steps`` of ``batch_size``, learning rate from 0 over ``warmup_steps`` to ``peak_lr``,
    then by a cosine to 3 % of it; AdamW with ``weight_decay``."""

    num_steps: int
    batch_size: int
    peak_lr: float
    weight_decay: float = 0.02
    warmup_steps: int = 40


StepLoss = Callable[[int], tuple[Tensor, dict[str, float]]]


def learning_rate(recipe: Pretraining, step: int) -> float:
    """The rate of a step, counted from 0."""
    warmup = min(1.0, (step + 1) / recipe.warmup_steps)
    cosine = 0.5 + 0.5 * math.cos(math.pi * step / recipe.num_steps)
    return recipe.peak_lr * warmup * (FINAL_LR_SHARE + (1 - FINAL_LR_SHARE) * cosine)


def fit(
    name: str,
    module: nn.Module,
    step_loss: StepLoss,
    recipe: Pretraining,
    folder: Path,
    lr_scales: Mapping[str, float] | None = None,
) -> None:
    """Train ``module`` in place for ``recipe.num_steps``, or what is left of them.

    Args:
        name: shown with the progress.
        module: all that is trained, as one; its state is what the checkpoint holds.
        step_loss: step number -> loss and figures for ``metrics.jsonl``.
        recipe: steps and rates.
        folder: where the state is kept; a finished one is only loaded.
        lr_scales: beginnings of parameter names -> factor on the rate.

    Raises:
        CheckpointError: the folder holds another recipe's state, or the loss is no number.
    """
    optimizer = torch.optim.AdamW(_groups(module, recipe, lr_scales or {}), lr=recipe.peak_lr, betas=BETAS)
    state_path = folder / STATE_FILE
    first = _restore(state_path, module, optimizer, recipe)
    saved = time.monotonic()
    module.train()
    for step in progress(range(first, recipe.num_steps), name, total=recipe.num_steps - first):
        start = time.perf_counter()
        rate = learning_rate(recipe, step)
        for group in optimizer.param_groups:
            group["lr"] = rate * group["lr_scale"]
        loss, figures = step_loss(step)
        if not torch.isfinite(loss):
            raise CheckpointError(f"{name}: the loss of step {step} is {loss.item()}. Start again with another seed.")
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(module.parameters(), MAX_GRADIENT_NORM)
        optimizer.step()
        row = {"step": step, "loss": loss.item(), "lr": rate, "seconds": time.perf_counter() - start, **figures}
        _append(folder / "metrics.jsonl", row)
        if time.monotonic() - saved > SAVE_EVERY_SECONDS:
            _save(state_path, module, optimizer, recipe, step + 1)
            saved = time.monotonic()
    if first < recipe.num_steps:
        _save(state_path, module, optimizer, recipe, recipe.num_steps)
    module.eval()


def _groups(module: nn.Module, recipe: Pretraining, lr_scales: Mapping[str, float]) -> list[dict[str, Any]]:
    """One group for each pair of weight decay (none on vectors) and scale of the rate."""
    groups: dict[tuple[float, float], list[Tensor]] = {}
    for name, parameter in module.named_parameters():
        if parameter.requires_grad:
            scale = next((factor for start, factor in lr_scales.items() if name.startswith(start)), 1.0)
            decay = recipe.weight_decay if parameter.ndim > 1 else 0.0
            groups.setdefault((decay, scale), []).append(parameter)
    return [
        {"params": parameters, "weight_decay": decay, "lr_scale": scale}
        for (decay, scale), parameters in groups.items()
    ]


def _append(path: Path, row: Mapping[str, Any]) -> None:
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")


def _save(path: Path, module: nn.Module, optimizer: Any, recipe: Pretraining, step: int) -> None:
    state = {"step": step, "recipe": repr(recipe), "module": module.state_dict(), "optimizer": optimizer.state_dict()}
    with new_file(path) as unfinished:
        torch.save(state, unfinished)


def _restore(path: Path, module: nn.Module, optimizer: Any, recipe: Pretraining) -> int:
    """Load the state if there is one; return the step to go on with."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        return 0
    state = torch.load(path, weights_only=True)
    if state["recipe"] != repr(recipe):
        raise CheckpointError(
            f"{path} was made with {state['recipe']}, the recipe now is {recipe!r}. Name another folder, or delete it."
        )
    module.load_state_dict(state["module"])
    optimizer.load_state_dict(state["optimizer"])
    if state["step"] < recipe.num_steps:
        logger.info("%s: going on at step %d of %d", path.parent.name, state["step"], recipe.num_steps)
    return int(state["step"])
