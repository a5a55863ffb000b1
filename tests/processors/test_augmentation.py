"""Training crops."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from video_llama.processors.augmentation import augment, crop_and_resize, random_crop, to_uint8


def frames(count: int, height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, 3, height, width), dtype=np.uint8)


@given(st.integers(1, 400), st.integers(1, 400), st.integers(0, 2**31))
def test_a_crop_lies_inside_and_is_large_enough(height: int, width: int, seed: int) -> None:
    top, left, part_height, part_width = random_crop(height, width, (0.5, 1.0), rng=torch.Generator().manual_seed(seed))
    assert 0 <= top <= top + part_height <= height
    assert 0 <= left <= left + part_width <= width
    assert min(part_height, part_width) >= 1
    if 100 <= height <= 4 / 3 * width and 100 <= width <= 4 / 3 * height:  # 1 % is rounding to whole pixels
        assert part_height * part_width >= 0.49 * height * width


def test_one_crop_serves_all_frames_and_its_seed_repeats_it() -> None:
    still = np.repeat(frames(1, 40, 50), 4, axis=0)

    def crop(seed: int) -> np.ndarray:
        return augment(still, (24, 24), (0.5, 1.0), torch.Generator().manual_seed(seed))

    first = crop(1)
    assert (first.dtype, first.shape) == (np.uint8, (4, 3, 24, 24))
    assert all(np.array_equal(first[0], other) for other in first)
    assert np.array_equal(first, crop(1))
    assert not np.array_equal(first, crop(2))


def test_overshoot_is_clamped_and_never_wraps() -> None:
    """Black beside white: bicubic goes below 0 and above 255, which the reference's cast wraps around."""
    edge = np.zeros((1, 3, 16, 16), np.uint8)
    edge[..., 8:] = 255
    floats = crop_and_resize(edge, (0, 0, 16, 16), (40, 40))
    assert floats.min() < -1
    assert floats.max() > 256
    ints = to_uint8(floats)
    assert np.abs(ints - floats.clip(0, 255)).max() <= 0.5
    assert ints[..., :10].max() == 0
    assert ints[..., 30:].min() == 255


def test_a_whole_crop_of_the_same_size_changes_nothing() -> None:
    given_frames = frames(2, 20, 30)
    assert np.array_equal(to_uint8(crop_and_resize(given_frames, (0, 0, 20, 30), (20, 30))), given_frames)
