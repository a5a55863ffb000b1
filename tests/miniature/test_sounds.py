"""Sounds: every shape's sound can be recognised by its spectrum, also after AAC."""

from pathlib import Path

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from video_llama.miniature import sounds
from video_llama.miniature.world import SHAPES, Scene, ScenePart, write_clip

SEEDS = st.integers(0, 2**32 - 1)


def spectral_facts(samples: np.ndarray) -> tuple[float, float]:
    """Return the strongest frequency in Hz and the spectral flatness between 60 Hz and 3 kHz."""
    power = np.abs(np.fft.rfft(samples * np.hanning(len(samples)))) ** 2 + 1e-12
    hertz = np.fft.rfftfreq(len(samples), 1 / sounds.SAMPLING_RATE)
    band = power[(hertz > 60) & (hertz < 3000)]
    return float(hertz[power.argmax()]), float(np.exp(np.log(band).mean()) / band.mean())


@settings(max_examples=20, deadline=None)
@given(SEEDS)
def test_sounds_differ_in_their_spectrum(seed: int) -> None:
    rng = np.random.default_rng(seed)
    facts = {shape: spectral_facts(sounds.sample_sound(rng, shape)) for shape in SHAPES}
    assert 80 < facts["circle"][0] < 160
    assert 170 < facts["square"][0] < 1200
    assert 1200 < facts["triangle"][0] < 2400
    assert facts["star"][1] > 0.2 > max(facts["circle"][1], facts["square"][1], facts["triangle"][1])


def test_two_sounds_follow_each_other() -> None:
    samples = sounds.sample_sequence(np.random.default_rng(0), ("triangle", "circle"), 4.0)
    assert samples.shape == (64000,)
    assert samples.dtype == np.float32
    assert np.abs(samples).max() <= 1
    assert spectral_facts(samples[:32000])[0] > 1200 > 160 > spectral_facts(samples[32000:])[0]


def test_a_shape_without_a_sound_is_an_error() -> None:
    with pytest.raises(ValueError, match="use one of circle, square, triangle, star"):
        sounds.sample_sound(np.random.default_rng(0), "hexagon")


def test_sounds_survive_the_mp4(tmp_path: Path) -> None:
    parts = (ScenePart("red", "circle", "still"), ScenePart("blue", "star", "still"))
    path = tmp_path / "clip.mp4"
    write_clip(Scene(parts, ("star", "circle"), 5, 6.0), path)
    with av.open(str(path)) as container:
        sound = np.concatenate([frame.to_ndarray()[0] for frame in container.decode(audio=0)])
    assert abs(len(sound) - 6 * sounds.SAMPLING_RATE) <= 1024
    assert spectral_facts(sound[:44000])[1] > 0.2
    assert 80 < spectral_facts(sound[52000:90000])[0] < 160
