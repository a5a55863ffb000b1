"""The mel filter bank."""

from __future__ import annotations

import numpy as np

from tests.factories.media import tone
from video_llama.processors.fbank import log_mel_filter_bank

RATE = 16000


def test_many_clips_in_one_transform_equal_one_by_one() -> None:
    clips = np.random.default_rng(1).normal(0, 0.1, (5, 8000)).astype(np.float32)
    together = log_mel_filter_bank(clips, RATE, 128)
    assert together.shape == (5, 48, 128)
    for clip, mel in zip(clips, together, strict=True):
        assert np.abs(log_mel_filter_bank(clip[None], RATE, 128)[0] - mel).max() < 1e-4  # order of float32 sums


def test_a_tone_is_loudest_in_its_own_bin() -> None:
    def mel(hertz: float) -> float:
        return 1127 * float(np.log(1 + hertz / 700))

    width = (mel(RATE / 2) - mel(20)) / 129
    for hertz in (250.0, 1000.0, 4000.0):
        loudest = int(log_mel_filter_bank(tone(0.5, RATE, [hertz]), RATE, 128)[0].mean(axis=0).argmax())
        assert abs(loudest - ((mel(hertz) - mel(20)) / width - 1)) <= 1
