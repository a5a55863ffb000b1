"""The loss on data that is not trained on: every row once, without dropout, noise or gradients; and the best weights.

```
output_dir/valid.jsonl       a row per validation: {"step", "loss", "num_tokens", "left_out", "seconds"}
           evaluation.jsonl  the same of an evaluation alone (run.evaluate), with "weights": what was evaluated
           best/             the trained parts at the lowest loss so far, and valid.json with that loss
```
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from video_llama.datasets.loading import Batch, BatchIndices, BatchSource, TrainingSet
from video_llama.errors import DataError
from video_llama.log import progress
from video_llama.training.distributed import World

if TYPE_CHECKING:
    from torch import Tensor


class SequentialOrder:
    """Every row of every data set once, in the order of the files: an order of batches as ``BatchSource`` reads it."""

    def __init__(self, sizes: Sequence[int], batch_size: int) -> None:
        self.batch_size = batch_size
        self._places = [
            BatchIndices(dataset, rows := np.arange(first, min(first + batch_size, size)), rows)
            for dataset, size in enumerate(sizes)
            for first in range(0, size, batch_size)
        ]

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, batch: int) -> BatchIndices:
        return self._places[batch]


@dataclass(frozen=True)
class Validation:
    """``source`` has whole batches; the processes take turns at them."""

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
        """A validation on all rows of ``sets``."""
        order = SequentialOrder([len(each.samples) for each in sets], batch_size)
        return cls(BatchSource(sets, order, pad_id, multiple_of, rank=0, world_size=1), every_steps, world)

    def is_due(self, num_steps: int) -> bool:
        """Whether to validate when ``num_steps`` steps are done."""
        return self.every_steps is not None and num_steps % self.every_steps == 0

    def run(
        self, num_steps: int, total_loss: Callable[[Batch], Tensor], *, shows_progress: bool = False
    ) -> dict[str, float]:
        """The row for valid.jsonl. ``total_loss`` gives the sum of the loss over a batch's tokens.

        "left_out" counts rows whose media could not be read just now; what a run with cached features leaves out, it
        leaves out before. Raises DataError for a loss that is not finite, or over no token.
        """
        start = time.perf_counter()
        loss = num_tokens = num_left_out = 0.0
        rounds = -(-len(self.source) // self.world.size)
        numbers: Iterable[int] = range(self.world.rank, rounds * self.world.size, self.world.size)
        if shows_progress and self.world.is_main:
            numbers = progress(numbers, "evaluating", total=rounds)
        for number in numbers:
            # Where the batches do not divide, some processes repeat the last: all must take part in each forward pass.
            batch = self.source[min(number, len(self.source) - 1)]
            is_counted = number < len(self.source)
            with torch.no_grad():
                total = float(total_loss(batch.to(self.world.device)))
            loss += total * is_counted
            num_tokens += batch.num_tokens * is_counted
            num_left_out += len(batch.left_out) * is_counted
        loss, num_tokens, num_left_out = (self.world.sum(part) for part in (loss, num_tokens, num_left_out))
        if num_tokens == 0 or not math.isfinite(loss):
            raise DataError(f"The validation loss is {loss} over {num_tokens:.0f} tokens. Look at the valid data sets.")
        row = {"step": num_steps, "loss": loss / num_tokens, "num_tokens": num_tokens, "left_out": int(num_left_out)}
        return {**row, "seconds": round(time.perf_counter() - start, 3)}
