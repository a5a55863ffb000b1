"""Training loop of all pre-trainings: AdamW with a cosine schedule, metrics and checkpoints.

Input: a module, a function that returns the loss of a step, and hyperparameters. Output: the trained module, and
``state.pt`` and ``metrics.jsonl`` in its folder. The data of a step depends only on the step's number, so a resumed run
gives the same weights as an uninterrupted one.
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
from video_llama.models.cpu import emulates_bfloat16

FINAL_LR_SHARE = 0.03
BETAS = (0.9, 0.98)
MAX_GRADIENT_NORM = 1.0
SAVE_EVERY_SECONDS = 60.0
STATE_FILE = "state.pt"


def half_precision() -> torch.autocast:
    """Return a context that computes in bfloat16 on a CPU with units for it, else in float32.

    Emulated, bfloat16 would take many times as long as float32.
    """
    return torch.autocast("cpu", dtype=torch.bfloat16, enabled=not emulates_bfloat16(torch.device("cpu")))


@dataclass(frozen=True)
class Pretraining:
    """Hyperparameters of one pre-training.

    The learning rate is ``peak_lr`` times a cosine from 1 to 0.03, and times a linear warm-up in the first
    ``warmup_steps`` steps. The checkpoint contains the repr of this class: do not rename it or its fields.
    """

    num_steps: int
    batch_size: int
    peak_lr: float
    weight_decay: float = 0.02
    warmup_steps: int = 40


StepLoss = Callable[[int], tuple[Tensor, dict[str, float]]]


def learning_rate(recipe: Pretraining, step: int) -> float:
    """Return the learning rate of a step, counted from 0."""
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
    """Train ``module`` in place, from the checkpoint in ``folder`` if there is one.

    Args:
        name: name shown with the progress.
        module: the module to train. Its ``state_dict`` is what the checkpoint contains.
        step_loss: step number -> loss, and figures for ``metrics.jsonl``.
        recipe: hyperparameters.
        folder: folder of the checkpoint and the metrics. A finished checkpoint is only loaded.
        lr_scales: prefix of parameter names -> factor on the learning rate.

    Raises:
        CheckpointError: the checkpoint was made with other hyperparameters, or the loss is not finite.
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
            raise CheckpointError(f"{name}: the loss of step {step} is {loss.item()}. Restart with another seed.")
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
    """Return a parameter group for each pair of weight decay (0 for vectors) and learning rate factor."""
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
    """Load the checkpoint, if there is one, and return the step to continue with."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        return 0
    state = torch.load(path, weights_only=True)
    if state["recipe"] != repr(recipe):
        raise CheckpointError(
            f"{path} was made with {state['recipe']}, not {recipe!r}. Delete it or use another folder."
        )
    module.load_state_dict(state["module"])
    optimizer.load_state_dict(state["optimizer"])
    if state["step"] < recipe.num_steps:
        logger.info("%s: resuming at step %d of %d", path.parent.name, state["step"], recipe.num_steps)
    return int(state["step"])
