"""Media arguments as flat lists."""

import numpy as np
import pytest
from PIL import Image

from video_llama.processors.nested_inputs import given_audio, given_images, given_videos


@pytest.mark.parametrize(
    ("videos", "num_videos", "counts"),
    [
        (None, 0, None),
        ("a.mp4", 1, None),
        (["a.mp4", "b.mp4"], 2, None),
        ([["a.mp4"], ["b.mp4", "c.mp4"]], 3, [1, 2]),
        ([["a.mp4"], []], 1, [1, 0]),
        ([["1.png", "2.png"]], 1, None),
        (["1.png", "2.png"], 1, None),
        ([[["1.png", "2.png"]], []], 1, [1, 0]),
        (np.zeros((4, 8, 8, 3)), 1, None),
        (np.zeros((2, 4, 8, 8, 3)), 2, None),
        ([np.zeros((4, 8, 8, 3))] * 2, 2, None),
        ([[np.zeros((4, 8, 8, 3))]] * 2, 2, [1, 1]),
        ([Image.new("RGB", (8, 8))] * 3, 1, None),
        ([[Image.new("RGB", (8, 8))] * 3] * 2, 2, None),
        ([np.zeros((8, 8, 3))] * 3, 1, None),
    ],
)
def test_videos(videos, num_videos, counts):
    given = given_videos(videos)
    assert (len(given.items), given.counts) == (num_videos, counts)


@pytest.mark.parametrize(
    ("images", "num_images", "counts"),
    [(None, 0, None), ("a.png", 1, None), ([["a.png"], [], ["b.png", None]], 2, [1, 0, 1]), ([b"a", b"b"], 2, None)],
)
def test_images(images, num_images, counts):
    given = given_images(images)
    assert (len(given.items), given.counts) == (num_images, counts)


@pytest.mark.parametrize(
    ("audio", "num_sounds"),
    [
        (None, 0),
        ("a.wav", 1),
        (np.zeros(9), 1),
        ([np.zeros(9)] * 2, 2),
        ([0.0, 0.5], 1),
        ([[np.zeros(9)]], 1),
        (["a"], 1),
    ],
)
def test_audio(audio, num_sounds):
    assert len(given_audio(audio).items) == num_sounds
