"""Resampling against its definition."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.factories.media import tone
from video_llama.processors.audio_decode import SoundTrack
from video_llama.processors.resample import Resampler, resample

RATE = 16000


@settings(max_examples=20)
@given(st.sampled_from([8000, 11025, 22050, 44100, 44101, 48000, 96000]), st.integers(1, 3000), st.integers(1, 3))
def test_resampling_equals_the_textbook_sum(rate: int, num_samples: int, num_channels: int) -> None:
    """Every output sample as one windowed-sinc sum over all inputs, in float64."""
    sound = np.random.default_rng(num_samples).normal(0, 0.3, (num_channels, num_samples)).astype(np.float32)
    resampled = resample(sound, rate, RATE)
    assert resampled.shape == (num_channels, -(-num_samples * RATE // rate))
    cutoff = min(rate, RATE) * 0.99
    places = np.linspace(0, resampled.shape[1] - 1, 7).astype(int)
    for place in places:
        crossings = np.clip((np.arange(num_samples) / rate - place / RATE) * cutoff, -6, 6)
        taps = np.sinc(crossings) * np.cos(crossings * np.pi / 12) ** 2 * (cutoff / rate)
        assert np.abs(resampled[:, place] - sound @ taps).max() < 2e-6  # float32 taps


@settings(max_examples=30)
@given(
    st.sampled_from([8000, 11025, RATE, 22050, 44100, 44101, 48000, 96000]),
    st.integers(1, 100_000),
    st.tuples(st.floats(0, 1), st.floats(0, 1)),
)
def test_a_part_is_resampled_to_the_bits_of_the_whole(rate: int, num_samples: int, ends: tuple[float, float]) -> None:
    sound = np.random.default_rng(num_samples).normal(0, 0.3, (2, num_samples)).astype(np.float32)
    whole, resampler = resample(sound, rate, RATE), Resampler(rate, RATE)
    first, last = sorted(round(end * whole.shape[1]) for end in ends)
    part = SoundTrack.of(sound, rate, "a").cut([resampler.inputs_of(first, last)])[0]
    assert np.array_equal(resampler(part, first, last), whole[:, first:last])
    assert np.array_equal(resampler(np.asfortranarray(part), first, last), whole[:, first:last])


@pytest.mark.parametrize("rate", [8000, 44100, 48000])
def test_a_resampled_tone_keeps_its_place(rate: int) -> None:
    resampled = resample(tone(1.0, rate).astype(np.float32), rate, RATE)
    inner = slice(500, -500)
    assert np.abs(resampled[0, inner] - tone(1.0, RATE)[0, inner]).max() < 2e-3  # of 0.5: the filter's ripple
