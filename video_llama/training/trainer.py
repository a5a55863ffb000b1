"""The training loop: update the weights, write checkpoints, and log the metrics of each step.

A step depends only on the weights, the state of AdamW and the number of the step: batches, dropout and noise are
derived from the seed and that number. Therefore a run that is interrupted and resumed gives the same result, bit by
bit, as an uninterrupted run.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from video_llama.datasets.loading import Batch, BatchSource, MediaBatch, each_tensor
from video_llama.errors import DataError
from video_llama.log import logger
from video_llama.models.video_llama import VideoLlamaForConditionalGeneration
from video_llama.training.checkpoint import TrainingState, best_loss, save_best, save_checkpoint, trained_tensors
from video_llama.training.config import RunConfig
from video_llama.training.distributed import World
from video_llama.training.metrics import LEFT_OUT_FILE, LeftOut, MetricsLogger, open_metrics
from video_llama.training.optim import Schedule
from video_llama.training.parallel import exchange_only, full_optimizer_state, full_tensor
from video_llama.training.stopping import stop_requested
from video_llama.training.validation import Validation


@dataclass
class Clock:
    """Measures the seconds spent in each part of a step."""

    seconds: dict[str, float] = field(default_factory=dict)
    _last: float = field(default_factory=time.perf_counter)

    def lap(self, part: str) -> None:
        """Add the time since the last lap to ``part``."""
        now = time.perf_counter()
        self.seconds[part] = self.seconds.get(part, 0.0) + now - self._last
        self._last = now


@dataclass
class Trainer:
    """The state of a training run and its training loop.

    ``model`` is loaded, frozen and, if required, sharded. ``source`` contains the part of each batch for this process;
    ``batch_size`` is the number of rows over all processes.
    """

    model: VideoLlamaForConditionalGeneration
    optimizer: torch.optim.Optimizer
    schedule: Schedule
    source: BatchSource | Sequence[Batch]
    batch_size: int
    run: RunConfig
    clip_noise: float
    world: World
    steps_per_epoch: int
    config_text: str
    trains_both_branches: bool = False
    bad_shares: Mapping[str, float] = field(default_factory=dict)
    """``max_bad_share`` of each data set with ``on_bad_media: skip``."""
    validation: Validation | None = None
    rows: Mapping[str, str] = field(default_factory=dict)
    """A hash of the rows of each data set."""

    def __post_init__(self) -> None:
        self.trained = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        self.left_out = LeftOut(self.bad_shares, self.run.output_dir / LEFT_OUT_FILE, self.world)
        self.network: nn.Module = self.model
        if self.world.size > 1 and self.run.distributed_mode == "ddp":
            self.network = nn.parallel.DistributedDataParallel(
                self.model,
                find_unused_parameters=self.trains_both_branches,
                broadcast_buffers=False,  # buffers never change, and those of a quantized decoder are large
            )
        device = self.world.device.type
        is_bf16 = self.run.dtype == "bf16" or (self.run.dtype is None and self.run.amp and device != "cpu")
        low = torch.float16 if self.run.dtype == "fp16" else torch.bfloat16 if is_bf16 else None
        self.precision = nullcontext() if low is None else torch.autocast(device, low)
        self.scaler = torch.amp.GradScaler(device, enabled=low is torch.float16)

    def train(self, first: int, last: int) -> None:
        """Run steps ``first`` to ``last - 1``. Checkpoints are saved as configured, after each epoch, and at the end.

        Raises DataError if the loss or the gradient is not finite, and KeyboardInterrupt, after saving, on Ctrl-C or
        SIGTERM.
        """
        self.model.train()
        batches = self._batches(first, last)
        with stop_requested() as stop, self._open_metrics(first, last) as metrics:
            for step in range(first, last):
                metrics.step(self.step(step, batches))
                is_stopped = self.world.sum(float(stop.is_set())) > 0
                if self._is_saved_after(step) or step == last - 1 or is_stopped:
                    self.save(step + 1)
                if self.validation is not None and self.validation.is_due(step + 1):
                    self.validate(self.validation, step + 1, metrics)
                if is_stopped:
                    if self.world.is_main:
                        logger.info("stopped after step %d and saved; continue with --resume auto", step + 1)
                    raise KeyboardInterrupt

    def step(self, step: int, batches: Iterator[Batch]) -> dict[str, Any]:
        """Update the weights once and return the metrics of the step; their "step" counts from 1."""
        clock = Clock()
        _seed(self.run.seed, step, self.world.rank)
        group = [next(batches).to(self.world.device) for _ in range(self.run.accum_grad_iters)]
        num_tokens = self.world.sum(float(sum(batch.num_tokens for batch in group)))
        num_left_out = self.left_out.count(step, group)
        self._check_labels(group, num_tokens, step)
        clock.lap("data")
        shares: list[Tensor] = []
        for index, batch in enumerate(group):
            # Synchronize gradients between processes only in the last backward pass of the step.
            with exchange_only(self.network, index == len(group) - 1):
                share = self._loss_share(batch, num_tokens)
                clock.lap("forward")
                # DDP and FSDP2 average the gradients over the processes, but here they must be summed.
                self.scaler.scale(share * self.world.size).backward()  # type: ignore[no-untyped-call]
                clock.lap("backward")
            shares.append(share.detach())
        # Read together, once for the step: a GPU computes the batches without waiting for the CPU in between.
        loss = self.world.sum(math.fsum(torch.stack(shares).tolist()))
        _check_finite("loss", loss, group, step)
        learning_rate, gradient_norm = self.update(step, group)
        clock.lap("optimizer")
        row = self._row(step, loss, learning_rate, gradient_norm, num_tokens, group, clock)
        return {**row, "left_out": num_left_out} if self.bad_shares else row

    def save(self, num_steps: int) -> None:
        """Write a checkpoint after ``num_steps`` completed steps."""
        is_main = self.world.is_main
        tensors = trained_tensors(self.model, keeps=is_main)
        optimizer_state = full_optimizer_state(self.optimizer, keeps=is_main)
        if self.world.is_main:
            left_out = self.left_out.state_dict() if self.bad_shares else None
            state = TrainingState(
                num_steps, self.world.size, self.batch_size, self.scaler.state_dict() or None, left_out, dict(self.rows)
            )
            save_checkpoint(
                self.run.output_dir,
                tensors,
                optimizer_state,
                state,
                self.config_text,
                keep_last=self.run.keep_last,
                reference_epoch=(num_steps - 1) // self.steps_per_epoch if self.run.save_reference_pth else None,
            )
        self.world.barrier()

    def validate(self, validation: Validation, num_steps: int, metrics: MetricsLogger) -> None:
        """Compute the validation loss, and save the weights if it is the lowest so far."""
        self.model.train(False)
        row = validation.run(num_steps, lambda batch: self._loss_share(batch, num_tokens=1.0))
        self.model.train()
        metrics.validation(row)
        is_best = self.world.sum(float(self.world.is_main and row["loss"] < best_loss(self.run.output_dir))) > 0
        if is_best:
            tensors = trained_tensors(self.model, keeps=self.world.is_main)
            if self.world.is_main:
                save_best(self.run.output_dir, tensors, self.config_text, row)

    def evaluate(self, num_steps: int) -> dict[str, float]:
        """Return the metrics of the current weights on the validation data, after ``num_steps`` steps."""
        assert self.validation is not None
        self.model.train(False)
        return self.validation.run(num_steps, lambda batch: self._loss_share(batch, 1.0), shows_progress=True)

    def _open_metrics(self, first: int, last: int) -> AbstractContextManager[MetricsLogger]:
        return open_metrics(
            self.run.output_dir,
            first,
            last,
            is_main=self.world.is_main,
            validates=self.validation is not None,
            tensorboard=self.run.tensorboard,
        )

    def _batches(self, first: int, last: int) -> Iterator[Batch]:
        per_step = self.run.accum_grad_iters
        numbers = range(first * per_step, last * per_step)
        if self.run.num_workers == 0:
            return (self.source[number] for number in numbers)
        source = cast("torch.utils.data.Dataset[Batch]", self.source)
        loader = torch.utils.data.DataLoader(source, batch_size=None, sampler=numbers, num_workers=self.run.num_workers)
        return iter(loader)

    def _loss_share(self, batch: Batch, num_tokens: float) -> Tensor:
        """Return the contribution of a batch to the mean loss over all tokens of the step."""
        with self.precision:
            media = self._media(batch)
            loss = self.network(input_ids=batch.input_ids, labels=batch.labels, use_cache=False, **media).loss
        return loss * (batch.num_tokens / num_tokens)  # type: ignore[no-any-return]

    def _media(self, batch: Batch) -> dict[str, MediaBatch]:
        """Return the media arguments of the model, with noise on the ImageBind embeddings of frames."""
        arguments: dict[str, MediaBatch] = {}
        for form, media in batch.media.items():
            if form == "audio_pixel_values":
                media = self._encoded(media)
            if form in ("audio_pixel_values", "clip_embeddings"):
                arguments["clip_embeddings"] = each_tensor(media, self._noisy) if self._adds_noise else media
            else:
                arguments["clip_embeddings" if form == "sound_embeddings" else form] = media
        return arguments

    def _encoded(self, frames: MediaBatch) -> MediaBatch:
        """Return the ImageBind embeddings [N, S, E] of frames [N, S, 3, H, W]."""
        encode = self.model.model.encode_frames_as_clips
        with torch.no_grad():
            return encode(frames) if isinstance(frames, Tensor) else [encode(medium[None])[0] for medium in frames]

    @property
    def _adds_noise(self) -> bool:
        return self.clip_noise > 0 and self.model.training

    def _noisy(self, embeddings: Tensor) -> Tensor:
        """Add noise of expected norm ``clip_noise`` to each embedding [..., E]."""
        return embeddings + torch.randn_like(embeddings) * (self.clip_noise / math.sqrt(embeddings.shape[-1]))

    def update(self, step: int, group: list[Batch]) -> tuple[float, float]:
        """Update the weights with their gradients, and return the learning rate and the norm of the gradients.

        ``group`` is named if the norm is not finite.
        """
        learning_rate = self.schedule(step)
        for parameters in self.optimizer.param_groups:
            parameters["lr"] = learning_rate
        self.scaler.unscale_(self.optimizer)
        gradient_norm = float(full_tensor(nn.utils.clip_grad_norm_(self.trained, self.run.grad_clip or math.inf)))
        if not self.scaler.is_enabled():
            _check_finite("gradient norm", gradient_norm, group, step)
        self.scaler.step(self.optimizer)  # on overflow, the update is skipped and the scale is halved
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        return learning_rate, gradient_norm

    def _check_labels(self, group: list[Batch], num_tokens: float, step: int) -> None:
        if num_tokens == 0:
            raise DataError(
                f"Step {step + 1} has no token with a label ({_named(group)}). Raise max_length or remove these rows."
            )

    def _is_saved_after(self, step: int) -> bool:
        every = self.run.save_every_steps
        return (step + 1) % self.steps_per_epoch == 0 or (every is not None and (step + 1) % every == 0)

    def _row(
        self,
        step: int,
        loss: float,
        learning_rate: float,
        gradient_norm: float,
        num_tokens: float,
        group: list[Batch],
        clock: Clock,
    ) -> dict[str, Any]:
        seconds = sum(clock.seconds.values())
        return {
            "step": step + 1,
            "loss": loss,
            "lr": learning_rate,
            "grad_norm": gradient_norm,
            "num_tokens": int(num_tokens),
            "samples_per_second": round(self.batch_size * len(group) / seconds, 2),
            "tokens_per_second": round(num_tokens / seconds, 1),
            "seconds": {part: round(value, 5) for part, value in clock.seconds.items()},
            "datasets": [batch.dataset for batch in group],
        }


def _check_finite(what: str, value: float, group: list[Batch], step: int) -> None:
    if not math.isfinite(value):
        raise DataError(
            f"The {what} is {value} at step {step + 1} ({_named(group)}). This step changed and saved nothing. "
            "Check these rows, lower run.init_lr, or set run.grad_clip."
        )


def _seed(seed: int, step: int, rank: int) -> None:
    """Seed dropout and noise for a step."""
    torch.manual_seed(int(np.random.SeedSequence([seed, step, rank]).generate_state(1, np.uint64)[0]))


def _named(group: list[Batch]) -> str:
    ids = [sample_id for batch in group for sample_id in batch.sample_ids]
    return ", ".join(ids[:8]) + (f" and {len(ids) - 8} more" if len(ids) > 8 else "")
