"""AdamW with the reference's decay rule, and its two learning-rate schedules.

Source: the reference's runners/runner_base.py (``optimizer``) and common/optims.py; golden/lr_schedule.json.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from video_llama.training.config import RunConfig

if TYPE_CHECKING:
    import torch

Schedule = Callable[[int], float]
"""Learning rate of step 0, 1, 2, ..."""


def is_decayed(name: str, num_dimensions: int) -> bool:
    """Whether weight decay acts on a parameter: not on biases and norms. Query tokens and positions are decayed."""
    return num_dimensions >= 2 and not any(mark in name for mark in ("bias", "ln", "bn"))


def make_optimizer(parameters: Iterable[tuple[str, torch.nn.Parameter]], run: RunConfig) -> torch.optim.AdamW:
    """AdamW over the parameters that train; the schedule sets its learning rate before each step."""
    import torch

    decayed: list[torch.nn.Parameter] = []
    others: list[torch.nn.Parameter] = []
    for name, parameter in parameters:
        if parameter.requires_grad:
            (decayed if is_decayed(name, parameter.ndim) else others).append(parameter)
    groups = [{"params": decayed, "weight_decay": run.weight_decay}, {"params": others, "weight_decay": 0.0}]
    on_gpu = all(parameter.is_cuda for parameter in (*decayed, *others))
    return torch.optim.AdamW(groups, lr=run.init_lr, betas=run.betas, fused=True if on_gpu else None)


def make_schedule(run: RunConfig, steps_per_epoch: int) -> Schedule:
    """The schedule that ``lr_sched`` names, over ``max_epoch`` times ``steps_per_epoch`` steps."""
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
        # Its warm-up counts the steps within the epoch, and its cosine all steps from 0: a jump where they meet.
        return warm_up(step % steps_per_epoch) if step < run.warmup_steps else cosine(step, total)

    return reference if run.lr_sched == "reference_warmup_cosine" else documented
