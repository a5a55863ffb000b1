"""Checks of samples and rates, and the choice of the track."""

from __future__ import annotations

import numpy as np
import pytest

from video_llama.errors import MediaError
from video_llama.processors.audio_stream import MAX_RATE, SampleCheck, check_rate, without_audio


def test_rates() -> None:
    check_rate(MAX_RATE, "a.wav", has_video=False)
    with pytest.raises(MediaError, match=r"a\.wav has a sampling rate of 10 Hz.*ffmpeg -i FILE -ar 16000 out\.wav\.$"):
        check_rate(10, "a.wav", has_video=False)


def test_samples_are_counted_over_all_blocks() -> None:
    check = SampleCheck()
    check.add(np.array([[0.5, np.nan], [np.inf, -1.0]]))
    check.add(np.zeros((2, 3)))
    with pytest.raises(MediaError, match="2 of 10 sound samples are not finite numbers"):
        check.raise_if_bad("a.wav", has_video=False)


def test_a_level_far_above_full_scale() -> None:
    check = SampleCheck()
    check.add(np.array([[1.0, -3e7]]))
    with pytest.raises(MediaError, match=r"sound samples reach 3e\+07, and full scale is 1.*without audio"):
        check.raise_if_bad("a.mp4", has_video=True)


def test_remedies() -> None:
    assert without_audio("Convert it", has_video=False) == "Convert it."
    assert without_audio("Convert it", has_video=True) == "Convert it, or ask without audio (--no-audio)."
