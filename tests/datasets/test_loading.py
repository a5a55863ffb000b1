"""The order of the data depends only on the seed and the batch number; batches are padded and divided correctly."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from video_llama.datasets.config import DatasetConfig
from video_llama.datasets.loading import BATCHES_PER_GROUP, BatchOrder, BatchSource, TrainingSet
from video_llama.datasets.media import MediaForm
from video_llama.datasets.rows import RowBuilder, TextRules
from video_llama.datasets.sample import Sample


@dataclass(frozen=True)
class Numbers:
    """A reader whose media consist of the number of the sample and the seed."""

    form: MediaForm = "frame_tokens"

    def read(self, sample: Sample, seed: int) -> tuple[torch.Tensor, str]:
        number = float(sample.path.name)
        return torch.tensor([[number, float(seed)]] * (1 + int(number) % 2)), ""


def training_set(rules: TextRules, size: int, name: str = "numbers") -> TrainingSet:
    samples = [Sample(f"{name}:{i}", Path(str(i)), "video", caption="a red circle " * (1 + i % 3)) for i in range(size)]
    builder = RowBuilder(rules, DatasetConfig(), "vision")
    return TrainingSet(name, samples, builder, Numbers(), 1.0, seed=3, is_fixed=True)


@given(st.integers(1, 40), st.integers(1, 7), st.integers(0, 5), st.booleans())
def test_every_row_is_used_once_before_any_is_used_again(size: int, batch_size: int, seed: int, grouped: bool) -> None:
    lengths = [np.arange(size)[::-1]] if grouped else None
    num_batches = -(-3 * size // batch_size)
    order = BatchOrder([size], [1.0], batch_size, num_batches, seed, lengths)
    rows = np.concatenate([order[batch].rows for batch in range(len(order))])
    for start in range(0, 3 * size, size):
        assert sorted(rows[start : start + size]) == list(range(size))
    assert np.concatenate([order[batch].draws for batch in range(num_batches)]).tolist() == list(range(len(rows)))


def test_the_order_does_not_depend_on_its_start_or_length() -> None:
    long, short = (BatchOrder([9, 4], [3.0, 1.0], 2, count, seed=7) for count in (200, 50))
    for batch in (49, 3, 0):
        assert long[batch].dataset == short[batch].dataset
        assert long[batch].rows.tolist() == short[batch].rows.tolist()
    other = BatchOrder([9, 4], [3.0, 1.0], 2, 200, seed=8)
    assert any(long[batch].rows.tolist() != other[batch].rows.tolist() for batch in range(10))


def test_data_sets_are_drawn_by_their_ratio() -> None:
    order = BatchOrder([9, 4], [100.0, 24.0], 1, 10_000, seed=0)
    share = np.mean([order[batch].dataset == 0 for batch in range(len(order))])
    assert abs(share - 100 / 124) < 0.02  # five standard deviations of 10 000 draws


def test_grouping_by_length_reduces_padding_in_every_round() -> None:
    lengths = np.random.default_rng(1).integers(10, 200, size=1000)
    order = BatchOrder([1000], [1.0], 32, 90, seed=0, lengths=[lengths])
    spans = [np.ptp(lengths[order[batch].rows]) for batch in range(90)]
    assert np.mean(spans) < 190 / BATCHES_PER_GROUP * 2
    middles = [float(np.mean(lengths[order[batch].rows])) for batch in range(BATCHES_PER_GROUP)]
    assert middles != sorted(middles)


def test_two_processes_divide_the_batch_of_a_single_process(rules: TextRules) -> None:
    numbers = training_set(rules, 11)
    whole = BatchSource([numbers], BatchOrder([11], [1.0], 4, 6, seed=1), 0, 1, rank=0, world_size=1)
    halves = [BatchSource([numbers], whole.order, 0, 1, rank=rank, world_size=2) for rank in (0, 1)]
    for batch in range(6):
        assert whole[batch].sample_ids == halves[0][batch].sample_ids + halves[1][batch].sample_ids
        shared = [float(medium[0, 1]) for half in halves for medium in half[batch].media["frame_tokens"]]
        assert [float(medium[0, 1]) for medium in whole[batch].media["frame_tokens"]] == shared
    with pytest.raises(ValueError, match="batch of 4 rows cannot be divided among 3"):
        BatchSource([numbers], whole.order, 0, 1, rank=0, world_size=3)


def test_a_batch_is_padded_to_the_multiple_and_counts_its_tokens(rules: TextRules) -> None:
    numbers = training_set(rules, 6)
    batch = BatchSource([numbers], BatchOrder([6], [1.0], 6, 1, seed=1), 0, 16, rank=0, world_size=1)[0]
    assert batch.input_ids.shape == batch.labels.shape
    assert batch.input_ids.shape[0] == 6
    assert batch.input_ids.shape[1] % 16 == 0
    examples = [numbers.builder.build(sample, "") for sample in numbers.samples]
    assert batch.num_tokens == sum(label != -100 for example in examples for label in example.labels)
    # Counted before the labels are moved: here to a device where they cannot be read.
    assert batch.to(torch.device("meta")).num_tokens == batch.num_tokens
    assert isinstance(batch.media["frame_tokens"], list)  # lengths differ
    assert sorted(batch.sample_ids) == [f"numbers:{i}" for i in range(6)]


def test_media_of_one_length_are_one_tensor(rules: TextRules) -> None:
    numbers = training_set(rules, 1)
    batch = BatchSource([numbers], BatchOrder([1], [1.0], 2, 1, seed=1), 0, 1, rank=0, world_size=1)[0]
    media = batch.media["frame_tokens"]
    assert isinstance(media, torch.Tensor)
    assert media.shape == (2, 1, 2)
    assert media[0, 0, 1] != media[1, 0, 1]  # the same row has a different seed in each draw
