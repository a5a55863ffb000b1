"""AdamW with the reference's weight decay rule, and the learning rate schedules.

Source: the reference's runners/runner_base.py (``optimizer``) and common/optims.py; golden/lr_schedule.json.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

import torch

from video_llama.training.config import RunConfig

Schedule = Callable[[int], float]
"""Maps the number of a step, from 0, to its learning rate."""


def is_decayed(name: str, num_dimensions: int) -> bool:
    """Return whether weight decay applies to a parameter: not to biases and norms, but to queries and positions."""
    return num_dimensions >= 2 and not any(mark in name for mark in ("bias", "ln", "bn"))


def make_optimizer(parameters: Iterable[tuple[str, torch.nn.Parameter]], run: RunConfig) -> torch.optim.AdamW:
    """Return AdamW for the trainable parameters. The trainer sets the learning rate before each step."""
    decayed: list[torch.nn.Parameter] = []
    others: list[torch.nn.Parameter] = []
    for name, parameter in parameters:
        if parameter.requires_grad:
            (decayed if is_decayed(name, parameter.ndim) else others).append(parameter)
    groups = [{"params": decayed, "weight_decay": run.weight_decay}, {"params": others, "weight_decay": 0.0}]
    on_gpu = all(parameter.device.type != "cpu" for parameter in (*decayed, *others))
    return torch.optim.AdamW(groups, lr=run.init_lr, betas=run.betas, fused=True if on_gpu else None)


def make_schedule(run: RunConfig, steps_per_epoch: int) -> Schedule:
    """Return the schedule ``run.lr_sched`` for ``max_epoch`` times ``steps_per_epoch`` steps."""
    total = run.max_epoch * steps_per_epoch
    start = run.warmup_lr if run.warmup_lr >= 0 else run.init_lr

    def warm_up(step: int) -> float:
        return min(run.init_lr, start + (run.init_lr - start) * step / max(run.warmup_steps, 1))

    def cosine(step: int, length: int) -> float:
        return run.min_lr + (run.init_lr - run.min_lr) * 0.5 * (1.0 + math.cos(math.pi * step / max(length, 1)))

    def documented(step: int) -> float:
        if step < run.warmup_steps:
            return warm_up(step)
        return cosine(step - run.warmup_steps, total - run.warmup_steps)

    def reference(step: int) -> float:
        # The warm-up uses the step within the epoch, the cosine the step of the run: there is a jump between them.
        return warm_up(step % steps_per_epoch) if step < run.warmup_steps else cosine(step, total)

    return reference if run.lr_sched == "reference_warmup_cosine" else documented
