"""Compute the loss on validation data: every row once, without dropout, noise or gradients.

```
output_dir/valid.jsonl       one row per validation: {"step", "loss", "num_tokens", "left_out", "seconds"}
           evaluation.jsonl  the same for an evaluation without training (run.evaluate), with the evaluated "weights"
           best/             the trained parameters with the lowest loss so far, and valid.json with that loss
```
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from video_llama.datasets.loading import Batch, BatchIndices, BatchSource, TrainingSet
from video_llama.errors import DataError
from video_llama.log import progress
from video_llama.training.distributed import World


class SequentialOrder:
    """A ``BatchSampler`` of every row of every data set once, in the order of the files."""

    def __init__(self, sizes: Sequence[int], batch_size: int) -> None:
        self.batch_size = batch_size
        self._batches = [
            BatchIndices(dataset, rows := np.arange(first, min(first + batch_size, size)), rows)
            for dataset, size in enumerate(sizes)
            for first in range(0, size, batch_size)
        ]

    def __len__(self) -> int:
        return len(self._batches)

    def __getitem__(self, batch: int) -> BatchIndices:
        return self._batches[batch]


@dataclass(frozen=True)
class Validation:
    """The validation data. ``source`` contains whole batches, which are distributed over the processes."""

    source: BatchSource
    every_steps: int | None
    world: World

    @classmethod
    def of(
        cls,
        sets: Sequence[TrainingSet],
        batch_size: int,
        every_steps: int | None,
        pad_id: int,
        multiple_of: int,
        world: World,
    ) -> Validation:
        """Return a validation on all rows of ``sets``."""
        order = SequentialOrder([len(each.samples) for each in sets], batch_size)
        return cls(BatchSource(sets, order, pad_id, multiple_of, rank=0, world_size=1), every_steps, world)

    def is_due(self, num_steps: int) -> bool:
        """Return whether to validate after ``num_steps`` steps."""
        return self.every_steps is not None and num_steps % self.every_steps == 0

    def run(
        self, num_steps: int, total_loss: Callable[[Batch], Tensor], *, shows_progress: bool = False
    ) -> dict[str, float]:
        """Return the row for valid.jsonl. ``total_loss`` returns the sum of the loss over the tokens of a batch.

        "left_out" is the number of rows with unreadable media. With cached features it is 0, because such rows are
        removed before. Raises DataError if the loss is not finite or there are no tokens.
        """
        start = time.perf_counter()
        loss = num_tokens = num_left_out = 0.0
        rounds = -(-len(self.source) // self.world.size)
        numbers: Iterable[int] = range(self.world.rank, rounds * self.world.size, self.world.size)
        if shows_progress and self.world.is_main:
            numbers = progress(numbers, "evaluating", total=rounds)
        for number in numbers:
            # Every process must take part in each forward pass: without a batch of its own, it repeats the last one.
            batch = self.source[min(number, len(self.source) - 1)]
            is_counted = number < len(self.source)
            with torch.no_grad():
                total = float(total_loss(batch.to(self.world.device)))
            loss += total * is_counted
            num_tokens += batch.num_tokens * is_counted
            num_left_out += len(batch.left_out) * is_counted
        loss, num_tokens, num_left_out = (self.world.sum(part) for part in (loss, num_tokens, num_left_out))
        if num_tokens == 0 or not math.isfinite(loss):
            raise DataError(f"The validation loss is {loss} over {num_tokens:.0f} tokens. Check the valid data sets.")
        row = {"step": num_steps, "loss": loss / num_tokens, "num_tokens": num_tokens, "left_out": int(num_left_out)}
        return {**row, "seconds": round(time.perf_counter() - start, 3)}
