"""Counts the samples that are left out because a medium of theirs cannot be read, and stops where they are too many."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from video_llama.datasets.loading import Batch
from video_llama.errors import DataError
from video_llama.log import logger
from video_llama.training.distributed import World

LEFT_OUT_FILE = "left_out.jsonl"
LEAST_DRAWN = 100
"""The share is taken of at least so many samples: one bad file at the start is no reason to stop."""


@dataclass
class LeftOut:
    """``limits``: ``max_bad_share`` of every data set that skips bad media; the counts are the whole run's."""

    limits: Mapping[str, float]
    path: Path
    world: World
    drawn: dict[str, float] = field(default_factory=dict)
    bad: dict[str, float] = field(default_factory=dict)

    def count(self, step: int, group: Sequence[Batch]) -> int:
        """Report and count what a step's batches left out, over all processes; return the number.

        Raises DataError where a data set's share is over its limit.
        """
        if not self.limits:
            return 0
        self._report(step, group)
        num_left_out = 0
        for batch in group:
            name = batch.dataset
            left_out = self.world.sum(float(len(batch.left_out)))
            self.drawn[name] = self.drawn.get(name, 0.0) + self.world.sum(float(batch.num_drawn))
            self.bad[name] = self.bad.get(name, 0.0) + left_out
            num_left_out += int(left_out)
            self._check(name)
        return num_left_out

    def state_dict(self) -> dict[str, dict[str, float]]:
        """The counts, for a checkpoint; the same in every process."""
        return {"drawn": dict(self.drawn), "bad": dict(self.bad)}

    def load_state_dict(self, state: Mapping[str, Mapping[str, float]]) -> None:
        """Go on counting from a checkpoint's counts."""
        self.drawn, self.bad = dict(state["drawn"]), dict(state["bad"])

    def _report(self, step: int, group: Sequence[Batch]) -> None:
        rows = [(batch.dataset, reason) for batch in group for reason in batch.left_out]
        if not rows:
            return
        with self.path.open("a", encoding="utf-8") as file:
            for name, reason in rows:
                logger.warning("step %d: left out of %s: %s", step + 1, name, reason)
                file.write(json.dumps({"step": step + 1, "dataset": name, "reason": reason}) + "\n")

    def _check(self, name: str) -> None:
        bad, drawn, limit = self.bad[name], self.drawn[name], self.limits.get(name, 0.0)
        if bad > limit * max(drawn, LEAST_DRAWN):
            raise DataError(
                f"datasets.{name}: {int(bad)} of the {int(drawn)} samples drawn so far cannot be read, more than "
                f"max_bad_share {limit} ({self.path}). Repair the files, exclude them (validate-data), or raise it."
            )
