"""Rows of several data sets become batches, in an order that follows from the seed and the batch's number alone.

So there is no place in the data to save: batch 1234 is the same after a restart, and with two processes each takes its
half of the batch that one process would take.
"""

# B batch, L tokens, T frames

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from video_llama.conversation import IGNORE_INDEX
from video_llama.datasets.media import MediaForm, SampleReader
from video_llama.datasets.rows import RowBuilder
from video_llama.datasets.sample import Sample
from video_llama.errors import DataError, MediaError

MediaBatch = Tensor | list[Tensor]
"""N media of one length as a tensor [N, T, ...], or of different lengths as a list of [T, ...]."""

BATCHES_PER_GROUP = 16
"""How many batches' rows are sorted by length together."""


@dataclass(frozen=True)
class Place:
    """A batch of the order: which data set, which rows, and the ordinals of these draws (they seed augmentation)."""

    dataset: int
    rows: np.ndarray
    draws: np.ndarray


class RowOrder(Protocol):
    """Batch m's place, for every m."""

    @property
    def batch_size(self) -> int: ...

    def __len__(self) -> int: ...

    def __getitem__(self, batch: int) -> Place: ...


class BatchOrder:
    """Which rows make up batch m.

    Each batch comes from one data set, drawn with probability ``ratios``, as in the reference. Within a data set every
    row comes once before any comes again, in a new order each time. With ``lengths`` (one array per data set, in any
    unit), rows of similar length come together, which leaves less padding: of every ``BATCHES_PER_GROUP`` batches' rows
    the shortest make up one batch, the next another, and these batches come in random order.
    """

    def __init__(
        self,
        sizes: Sequence[int],
        ratios: Sequence[float],
        batch_size: int,
        num_batches: int,
        seed: int,
        lengths: Sequence[np.ndarray] | None = None,
    ) -> None:
        self.sizes, self.batch_size, self.seed = tuple(sizes), batch_size, seed
        self._lengths = lengths
        edges = np.cumsum(np.asarray(ratios, dtype=np.float64))
        draws = np.random.default_rng([seed, 0]).random(num_batches) * edges[-1]
        self._datasets = np.searchsorted(edges[:-1], draws, side="right")
        self._ordinals = np.zeros(num_batches, dtype=np.int64)
        for dataset in range(len(sizes)):
            chosen = self._datasets == dataset
            self._ordinals[chosen] = np.arange(int(chosen.sum()))
        self._permutation = lru_cache(maxsize=2 * len(sizes))(self._permute)

    def __len__(self) -> int:
        return len(self._datasets)

    def __getitem__(self, batch: int) -> Place:
        dataset = int(self._datasets[batch])
        size = self.sizes[dataset]
        draws = self._ordinals[batch] * self.batch_size + np.arange(self.batch_size)
        rows = np.array([self._permutation(dataset, int(draw) // size)[draw % size] for draw in draws])
        return Place(dataset, rows, draws)

    def _permute(self, dataset: int, round_number: int) -> np.ndarray:
        rng = np.random.default_rng([self.seed, 1 + dataset, round_number])
        rows = rng.permutation(self.sizes[dataset])
        if self._lengths is None:
            return rows
        lengths, size, group = self._lengths[dataset], self.batch_size, self.batch_size * BATCHES_PER_GROUP
        rest = -round_number * len(rows) % size  # these rows fill up the batch that the round before began
        for start in range(rest, len(rows), group):
            part = rows[start : start + group]
            part = part[np.argsort(lengths[part], kind="stable")]
            batches = [part[first : first + size] for first in range(0, len(part), size)]
            whole = [batches[index] for index in rng.permutation(len(part) // size)]
            rows[start : start + group] = np.concatenate([*whole, *batches[len(whole) :]])
        return rows


@dataclass(frozen=True)
class TrainingRow:
    """One row: ids and labels [L], its media in the order of their places, and the annotation that it comes from."""

    input_ids: Tensor
    labels: Tensor
    media: tuple[tuple[MediaForm, Tensor], ...]
    sample_id: str


@dataclass
class TrainingSet:
    """One data set of the mixture: its samples, how their text is built and where their media come from."""

    name: str
    samples: list[Sample]
    builder: RowBuilder
    media: SampleReader
    ratio: float
    seed: int
    is_fixed: bool
    """Whether a row is the same each time (cached features): then its text is tokenised only once."""
    sounds: SampleReader | None = None
    """Where sound comes from; needed where a sample has sound."""
    skips_bad_media: bool = False
    """Whether a sample with a medium that cannot be read is left out of its batch; else that is an error."""
    _texts: dict[tuple[int, int], tuple[Tensor, Tensor]] = field(default_factory=dict)

    def row(self, index: int, draw: int) -> TrainingRow:
        """Row ``index``; ``draw`` numbers the draws from this data set and decides what is random.

        Raises MediaError for a medium that cannot be read, and DataError for a text that cannot be used.
        """
        rng = np.random.default_rng([self.seed, 1, draw])
        choice = int(rng.integers(self.builder.num_choices))
        sample = self.samples[index]
        media: list[tuple[MediaForm, Tensor]] = []
        messages: list[str] = []
        for medium in sample.media:
            source = self._source(medium.kind == "audio")
            tensor, message = source.read(medium, int(rng.integers(2**31)))
            media.append((source.form, tensor))
            messages.append(message)
        text = self._texts.get((index, choice))
        if text is None:
            example = self.builder.build(sample, messages, choice)
            text = torch.tensor(example.input_ids), torch.tensor(example.labels)
            if self.is_fixed:
                self._texts[index, choice] = text
        return TrainingRow(*text, tuple(media), sample.id)

    def _source(self, is_sound: bool) -> SampleReader:
        if not is_sound:
            return self.media
        assert self.sounds is not None, "whoever makes a set of samples with sound gives it their source"
        return self.sounds


@dataclass(frozen=True)
class Batch:
    """``input_ids`` and ``labels`` [B, L] padded on the right, and the media by their form, in reading order.

    The decoder is causal, so what it makes of a row's tokens does not depend on the padding to their right: no mask is
    needed, and labels of -100 keep the padding out of the loss.
    """

    dataset: str
    sample_ids: tuple[str, ...]
    input_ids: Tensor
    labels: Tensor
    media: Mapping[MediaForm, MediaBatch]
    left_out: tuple[str, ...] = ()
    """Of the samples drawn, those with a medium that could not be read, and why."""

    @property
    def num_drawn(self) -> int:
        """Rows that the order gave this batch, with those that were left out."""
        return len(self.sample_ids) + len(self.left_out)

    @property
    def num_tokens(self) -> int:
        """How many tokens the loss is taken over."""
        return int((self.labels[:, 1:] != IGNORE_INDEX).sum())

    def to(self, device: torch.device) -> Batch:
        """The same batch on ``device``."""
        media = {form: each_tensor(media, lambda tensor: tensor.to(device)) for form, media in self.media.items()}
        return replace(self, input_ids=self.input_ids.to(device), labels=self.labels.to(device), media=media)


class BatchSource(torch.utils.data.Dataset[Batch]):
    """Batch m of the order, or this process's part of it."""

    def __init__(
        self, sets: Sequence[TrainingSet], order: RowOrder, pad_id: int, multiple_of: int, rank: int, world_size: int
    ) -> None:
        if order.batch_size % world_size:
            raise ValueError(f"A batch of {order.batch_size} cannot be shared by {world_size} processes.")
        self.sets, self.order = sets, order
        self.pad_id, self.multiple_of = pad_id, multiple_of
        share = order.batch_size // world_size
        self._part = slice(rank * share, (rank + 1) * share)

    def __len__(self) -> int:
        return len(self.order)

    def __getitem__(self, batch: int) -> Batch:
        place = self.order[batch]
        training_set = self.sets[place.dataset]
        rows: list[TrainingRow] = []
        left_out: list[str] = []
        for index, draw in zip(place.rows[self._part], place.draws[self._part], strict=True):
            try:
                rows.append(training_set.row(int(index), int(draw)))
            except MediaError as error:
                if not training_set.skips_bad_media:
                    raise
                left_out.append(str(error))
        if not rows:
            raise DataError(
                f"No sample of a process's {len(left_out)} in batch {batch} can be read ({left_out[0]}). Find the bad "
                f"ones with validate-data and set datasets.{training_set.name}.exclude to its report."
            )
        return replace(collate(rows, training_set.name, self.pad_id, self.multiple_of), left_out=tuple(left_out))


def collate(rows: Sequence[TrainingRow], dataset: str, pad_id: int, multiple_of: int) -> Batch:
    """Pad to the longest row, rounded up to ``multiple_of`` (CPU kernels are cached per shape)."""
    longest = max(len(row.input_ids) for row in rows)
    width = -(-longest // multiple_of) * multiple_of
    input_ids = torch.full((len(rows), width), pad_id)
    labels = torch.full((len(rows), width), IGNORE_INDEX)
    for place, row in enumerate(rows):
        input_ids[place, : len(row.input_ids)] = row.input_ids
        labels[place, : len(row.labels)] = row.labels
    by_form: dict[MediaForm, list[Tensor]] = {}
    for form, medium in (shown for row in rows for shown in row.media):
        by_form.setdefault(form, []).append(medium)
    media = {form: _stacked(tensors) for form, tensors in by_form.items()}
    return Batch(dataset, tuple(row.sample_id for row in rows), input_ids, labels, media)


def each_tensor(media: MediaBatch, change: Callable[[Tensor], Tensor]) -> MediaBatch:
    """``change`` applied to media of one length at once, or to each."""
    return change(media) if isinstance(media, Tensor) else [change(medium) for medium in media]


def _stacked(media: list[Tensor]) -> MediaBatch:
    return torch.stack(media) if len({len(medium) for medium in media}) == 1 else media
