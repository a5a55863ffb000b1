"""Writing mp4 files: streams, rates and reproducibility."""

from pathlib import Path

import av
import numpy as np
import pytest

from video_llama.miniature.mp4 import write_mp4

FRAMES = np.random.default_rng(0).integers(0, 256, (20, 32, 48, 3), dtype=np.uint8)
SAMPLES = np.sin(np.arange(32000, dtype=np.float32) / 10) / 2


def test_streams_have_the_given_rates(tmp_path: Path) -> None:
    write_mp4(tmp_path / "clip.mp4", FRAMES, frames_per_second=10, samples=SAMPLES)
    with av.open(str(tmp_path / "clip.mp4")) as container:
        video, audio = container.streams.video[0], container.streams.audio[0]
        assert (video.average_rate, video.frames, video.width, video.height) == (10, 20, 48, 32)
        assert (audio.rate, audio.channels) == (16000, 1)


def test_without_samples_there_is_no_audio_stream(tmp_path: Path) -> None:
    write_mp4(tmp_path / "clip.mp4", FRAMES, frames_per_second=10)
    with av.open(str(tmp_path / "clip.mp4")) as container:
        assert not container.streams.audio


def test_writing_twice_gives_the_same_bytes_and_leaves_nothing_else(tmp_path: Path) -> None:
    for name in ("one.mp4", "two.mp4"):
        write_mp4(tmp_path / name, FRAMES, frames_per_second=10, samples=SAMPLES)
    assert (tmp_path / "one.mp4").read_bytes() == (tmp_path / "two.mp4").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one.mp4", "two.mp4"]


def test_a_failed_write_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(av.FFmpegError):
        write_mp4(tmp_path / "clip.mp4", FRAMES[:, :31], frames_per_second=10)
    assert not list(tmp_path.iterdir())
