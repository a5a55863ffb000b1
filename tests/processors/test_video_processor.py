"""Normalization, the sentence of times, invalid arguments."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from video_llama.processors.sampling import FrameSampling
from video_llama.processors.video_processor import (
    IMAGE_MEAN,
    IMAGE_STD,
    VideoProcessor,
    frames_message,
    read_video,
)


def test_arguments_that_cannot_be(plain_clip: Path) -> None:
    with pytest.raises(ValueError, match=r"33 frames are requested, but the limit is 32 \(max_frame_pos\)"):
        read_video(plain_clip, sampling=FrameSampling(33))
    with pytest.raises(ValueError, match=r"40 frames are requested, but the limit is 32"):
        read_video(plain_clip, sampling=FrameSampling(40, start=0.1))
    with pytest.raises(ValueError, match=r"size is \(0, 224\)"):
        read_video(plain_clip, size=(0, 224))
    with pytest.raises(ValueError, match="A source is a path, bytes or a binary file object, not int"):
        read_video(7)  # type: ignore[arg-type]


def frames(count: int, height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, 3, height, width), dtype=np.uint8)


def test_frames_are_normalised_by_channel() -> None:
    given_frames = frames(2, 5, 7)
    outputs = VideoProcessor()(given_frames)
    assert (outputs.dtype, outputs.shape) == (np.float32, (2, 3, 5, 7))
    for channel in range(3):
        exact = (given_frames[:, channel] / 255 - IMAGE_MEAN[channel]) / IMAGE_STD[channel]
        assert np.abs(outputs[:, channel] - exact).max() < 1e-6  # float32


@pytest.mark.parametrize(
    "wrong", [np.zeros((2, 3, 4, 4), np.float32), np.zeros((3, 4, 4), np.uint8), frames(2, 4, 4).transpose(0, 2, 3, 1)]
)
def test_other_arrays_are_refused(wrong: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"Give uint8 \[T, 3, H, W\]"):
        VideoProcessor()(wrong)


def test_the_sentence_rounds_as_python_does() -> None:
    assert frames_message([0, 37, 74], 29.97) == "The video contains 3 frames sampled at 0.0, 1.2, 2.5 seconds. "
    assert frames_message([0], 25.0) == "The video contains 1 frames sampled at 0.0 seconds. "
