"""Clips of a track: where they start, and tracks that are too short."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from video_llama.errors import MediaError
from video_llama.processors.audio_processor import AudioProcessor
from video_llama.processors.settings import ProcessorSettings
from video_llama.processors.sound_clips import clip_starts, sample_range

RATE = 16000


@pytest.mark.parametrize("num_samples", [0, 1, 399])
@pytest.mark.parametrize("num_channels", [1, 2])
def test_less_than_a_window_is_an_error(num_samples: int, num_channels: int) -> None:
    with pytest.raises(
        MediaError,
        match=rf"{num_samples} audio samples at 16000 Hz; at least 400 \(25 ms\) are required\. Give a longer sound\.$",
    ):
        AudioProcessor()(np.zeros((num_channels, num_samples), np.float32), RATE, "x.wav")


def test_the_window_is_counted_after_resampling() -> None:
    assert AudioProcessor()(np.zeros((1, 200), np.float32), 8000).mel.shape == (8, 1, 128, 204)
    with pytest.raises(MediaError, match="has 398 audio samples at 16000 Hz"):
        AudioProcessor()(np.zeros((1, 199), np.float32), 8000)


@given(st.integers(400, 40 * RATE), st.integers(1, 12))
def test_clips_start_where_pytorchvideo_starts_them(num_samples: int, num_clips: int) -> None:
    settings = ProcessorSettings(num_clips=num_clips)
    duration = num_samples / RATE
    starts = clip_starts(duration, settings)
    step = Fraction(max(duration - 2.0, 0)) / num_clips
    assert starts == [k * step for k in range(num_clips)]
    ranges = [sample_range(start, settings) for start in starts]
    assert all(last - first in (32000, 32001, 31999) for first, last in ranges)
    assert ranges[-1][1] <= max(num_samples, 32000)
