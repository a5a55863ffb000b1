"""Mel clips: equality with the reference, channels, silence, invalid arguments."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks.conformance_audio import rows
from tests.factories.media import tone
from video_llama.errors import MediaError
from video_llama.processors.audio_processor import AudioProcessor
from video_llama.processors.fbank import SMALLEST_POWER
from video_llama.processors.settings import ProcessorSettings

RATE = 16000


@pytest.mark.parametrize("num_samples", [400, 401, 16000, 31999, 32000])
def test_a_short_track_gives_equal_clips(num_samples: int) -> None:
    sound = np.random.default_rng(0).normal(0, 0.1, (1, num_samples)).astype(np.float32)
    clips = AudioProcessor()(sound, RATE)
    assert (clips.mel.shape, clips.mel.dtype) == ((8, 1, 128, 204), np.float32)
    assert clips.start_seconds == [0.0] * 8
    assert all(np.array_equal(clips.mel[0], other) for other in clips.mel)
    num_frames = 1 + (num_samples - 400) // 160
    padding = np.float32(4.268) / np.float32(9.138)  # zeros, put there before (x + 4.268) / 9.138
    assert np.abs(clips.mel[..., num_frames:] - padding).max(initial=0) < 1e-7
    assert clips.mel[..., :num_frames].std() > 0.1


def test_channel_0_is_heard_and_the_mean_is_of_all() -> None:
    left, right = tone(2.5, RATE, [440.0, 3000.0]).astype(np.float32)
    heard = AudioProcessor()(np.stack([left, right]), RATE).mel
    alone = AudioProcessor()(left[None], RATE).mel
    assert np.abs(heard - alone).max() < 1e-2  # the mean only shifts what each frame's own mean removes
    other = AudioProcessor()(np.stack([right, left]), RATE).mel
    assert np.abs(heard - other).max() > 0.5


def test_silence_is_the_floor() -> None:
    mel = AudioProcessor()(np.zeros((1, RATE * 3), np.float32), RATE).mel[..., :198]
    assert np.abs(mel - (np.log(SMALLEST_POWER) + 4.268) / 9.138).max() < 1e-6


def test_settings_and_shapes_that_cannot_be() -> None:
    with pytest.raises(ValueError, match=r"num_clips is 0\. It must be positive"):
        ProcessorSettings(num_clips=0)
    with pytest.raises(ValueError, match=r"shape \[16000\]\. Give \[channels, samples\]"):
        AudioProcessor()(np.zeros(RATE, np.float32), RATE)
    with pytest.raises(MediaError, match="sampling rate of 0 Hz"):
        AudioProcessor()(np.zeros((1, RATE), np.float32), 0)


def test_mels_equal_goldens(golden_audio: Path) -> None:
    """The stored waveforms of golden, without its media files."""
    synthetic = json.loads((golden_audio / "audio.json").read_text(encoding="utf-8"))["synthetic"]
    results = [row for row in rows(golden_audio, None) if row.case.split()[1].rstrip(":") in synthetic]
    assert len(results) >= 4 * len(synthetic)
    assert [row for row in results if not row.passed] == []
