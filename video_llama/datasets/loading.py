"""Sample rows from several data sets and collate them into batches.

The rows of a batch depend only on the seed and the number of the batch. No position in the data needs to be saved:
batch 1234 is the same after a restart, and each of two processes reads one half of the batch that a single process
would read.
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
"""N media: a tensor [N, T, ...] if they have the same length, else a list of tensors [T, ...]."""

BATCHES_PER_GROUP = 16
"""Number of batches whose rows are sorted by length together."""


@dataclass(frozen=True)
class BatchIndices:
    """The rows of one batch: index of the data set, row indices [B], and draw numbers [B], which seed augmentation."""

    dataset: int
    rows: np.ndarray
    draws: np.ndarray


class BatchSampler(Protocol):
    """A sequence of batches of row indices with random access. Batch m is ``sampler[m]``."""

    @property
    def batch_size(self) -> int: ...

    def __len__(self) -> int: ...

    def __getitem__(self, batch: int) -> BatchIndices: ...


class BatchOrder:
    """The random order of training batches.

    Each batch comes from one data set, drawn with probabilities proportional to ``ratios``, as in the reference. Within
    a data set every row is used once before any row is used again, in a new random order each round. With ``lengths``
    (one array per data set, in any unit), batches consist of rows of similar length, which reduces padding: the rows of
    ``BATCHES_PER_GROUP`` batches are sorted by length and cut into batches, which are then shuffled.
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

    def __getitem__(self, batch: int) -> BatchIndices:
        dataset = int(self._datasets[batch])
        size = self.sizes[dataset]
        draws = self._ordinals[batch] * self.batch_size + np.arange(self.batch_size)
        rows = np.array([self._permutation(dataset, int(draw) // size)[draw % size] for draw in draws])
        return BatchIndices(dataset, rows, draws)

    def _permute(self, dataset: int, round_number: int) -> np.ndarray:
        rng = np.random.default_rng([self.seed, 1 + dataset, round_number])
        rows = rng.permutation(self.sizes[dataset])
        if self._lengths is None:
            return rows
        lengths, size, group = self._lengths[dataset], self.batch_size, self.batch_size * BATCHES_PER_GROUP
        rest = -round_number * len(rows) % size  # these rows complete the last batch of the previous round
        for start in range(rest, len(rows), group):
            part = rows[start : start + group]
            part = part[np.argsort(lengths[part], kind="stable")]
            batches = [part[first : first + size] for first in range(0, len(part), size)]
            whole = [batches[index] for index in rng.permutation(len(part) // size)]
            rows[start : start + group] = np.concatenate([*whole, *batches[len(whole) :]])
        return rows


@dataclass(frozen=True)
class TrainingRow:
    """One row: ids and labels [L], its media in prompt order, and the id of its annotation."""

    input_ids: Tensor
    labels: Tensor
    media: tuple[tuple[MediaForm, Tensor], ...]
    sample_id: str


@dataclass
class TrainingSet:
    """One data set: its samples, the builder of their text, and the readers of their media."""

    name: str
    samples: list[Sample]
    builder: RowBuilder
    media: SampleReader
    ratio: float
    seed: int
    is_fixed: bool
    """Whether rows do not change between epochs (cached features). Their text is then tokenized only once."""
    sounds: SampleReader | None = None
    """Reader of sound; required if a sample has sound."""
    skips_bad_media: bool = False
    """Whether samples with unreadable media are omitted from their batch. If not, they raise MediaError."""
    _texts: dict[tuple[int, int], tuple[Tensor, Tensor]] = field(default_factory=dict)

    def row(self, index: int, draw: int) -> TrainingRow:
        """Return row ``index``. ``draw``, the number of the draw from this data set, seeds all random choices.

        Raises MediaError for an unreadable medium and DataError for unusable text.
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
        assert self.sounds is not None, "a data set with sound needs a reader of sound"
        return self.sounds


@dataclass(frozen=True)
class Batch:
    """``input_ids`` and ``labels`` [B, L], padded on the right, and the media by form, in prompt order.

    No attention mask is needed: the decoder is causal, so padding on the right does not affect the tokens before it,
    and the labels of the padding (-100) exclude it from the loss.
    """

    dataset: str
    sample_ids: tuple[str, ...]
    input_ids: Tensor
    labels: Tensor
    media: Mapping[MediaForm, MediaBatch]
    left_out: tuple[str, ...] = ()
    """Error messages of the samples that were omitted because of unreadable media."""
    counted_tokens: int | None = None
    """``num_tokens``, if it was counted before the labels were moved: a GPU would have to be waited for."""

    @property
    def num_drawn(self) -> int:
        """Number of rows that were sampled, including omitted ones."""
        return len(self.sample_ids) + len(self.left_out)

    @property
    def num_tokens(self) -> int:
        """Number of tokens that contribute to the loss."""
        if self.counted_tokens is not None:
            return self.counted_tokens
        return int((self.labels[:, 1:] != IGNORE_INDEX).sum())

    def to(self, device: torch.device) -> Batch:
        """Return a copy of the batch on ``device``."""
        media = {form: each_tensor(media, lambda tensor: tensor.to(device)) for form, media in self.media.items()}
        ids, labels = self.input_ids.to(device), self.labels.to(device)
        return replace(self, input_ids=ids, labels=labels, media=media, counted_tokens=self.num_tokens)


class BatchSource(torch.utils.data.Dataset[Batch]):
    """The batches of ``order``, or the part of each batch that belongs to process ``rank``."""

    def __init__(
        self,
        sets: Sequence[TrainingSet],
        order: BatchSampler,
        pad_id: int,
        multiple_of: int,
        rank: int,
        world_size: int,
    ) -> None:
        if order.batch_size % world_size:
            raise ValueError(f"A batch of {order.batch_size} rows cannot be divided among {world_size} processes.")
        self.sets, self.order = sets, order
        self.pad_id, self.multiple_of = pad_id, multiple_of
        share = order.batch_size // world_size
        self._part = slice(rank * share, (rank + 1) * share)

    def __len__(self) -> int:
        return len(self.order)

    def __getitem__(self, batch: int) -> Batch:
        indices = self.order[batch]
        training_set = self.sets[indices.dataset]
        rows: list[TrainingRow] = []
        left_out: list[str] = []
        for index, draw in zip(indices.rows[self._part], indices.draws[self._part], strict=True):
            try:
                rows.append(training_set.row(int(index), int(draw)))
            except MediaError as error:
                if not training_set.skips_bad_media:
                    raise
                left_out.append(str(error))
        if not rows:
            raise DataError(
                f"None of the {len(left_out)} samples of a process in batch {batch} is readable ({left_out[0]}). Find "
                f"the bad ones with validate-data and set datasets.{training_set.name}.exclude to its report."
            )
        return replace(collate(rows, training_set.name, self.pad_id, self.multiple_of), left_out=tuple(left_out))


def collate(rows: Sequence[TrainingRow], dataset: str, pad_id: int, multiple_of: int) -> Batch:
    """Pad the rows to the longest one, rounded up to ``multiple_of`` (CPU kernels are cached per shape)."""
    longest = max(len(row.input_ids) for row in rows)
    width = -(-longest // multiple_of) * multiple_of
    input_ids = torch.full((len(rows), width), pad_id)
    labels = torch.full((len(rows), width), IGNORE_INDEX)
    for number, row in enumerate(rows):
        input_ids[number, : len(row.input_ids)] = row.input_ids
        labels[number, : len(row.labels)] = row.labels
    by_form: dict[MediaForm, list[Tensor]] = {}
    for form, medium in (shown for row in rows for shown in row.media):
        by_form.setdefault(form, []).append(medium)
    media = {form: _stacked(tensors) for form, tensors in by_form.items()}
    return Batch(dataset, tuple(row.sample_id for row in rows), input_ids, labels, media)


def each_tensor(media: MediaBatch, change: Callable[[Tensor], Tensor]) -> MediaBatch:
    """Apply ``change`` to the tensor, or to each tensor of a list."""
    return change(media) if isinstance(media, Tensor) else [change(medium) for medium in media]


def _stacked(media: list[Tensor]) -> MediaBatch:
    return torch.stack(media) if len({len(medium) for medium in media}) == 1 else media
