"""Pictures and sounds unlike those of the miniature: their types, shapes and seeds."""

import numpy as np
import pytest

from video_llama.miniature.other_media import (
    NUM_FRAMES,
    PICTURES,
    SOUNDS,
    sample_other_sound,
    sample_picture,
    write_other_clip,
)
from video_llama.processors.video_processor import read_video


@pytest.mark.parametrize("kind", PICTURES)
def test_frames_of_every_kind(kind: str) -> None:
    frames = sample_picture(np.random.default_rng(0), kind)
    assert frames.dtype == np.uint8
    assert len(frames) == NUM_FRAMES
    assert frames.shape[3] == 3
    assert np.array_equal(frames, sample_picture(np.random.default_rng(0), kind))


@pytest.mark.parametrize("kind", SOUNDS)
def test_sounds_of_every_kind(kind: str) -> None:
    samples = sample_other_sound(np.random.default_rng(0), kind, seconds=1.0)
    assert samples.dtype == np.float32
    assert samples.shape == (16000,)
    assert 0 < np.abs(samples).max() <= 1
    assert np.isfinite(samples).all()


def test_written_clip_can_be_read(tmp_path) -> None:
    write_other_clip(np.random.default_rng(0), tmp_path / "a.mp4", "text", "speech")
    assert len(read_video(tmp_path / "a.mp4", size=(84, 84)).frames)
