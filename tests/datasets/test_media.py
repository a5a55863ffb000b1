"""Frames are those of inference, or augmented with a seed; errors name the annotation."""

from pathlib import Path

import pytest
import torch

from video_llama.datasets.config import DatasetConfig, FrameSection, FrameSettings
from video_llama.datasets.media import FrameReader, frame_reader
from video_llama.datasets.sample import Sample
from video_llama.errors import MediaError
from video_llama.processors.sampling import FrameSampling
from video_llama.processors.video_processor import VideoProcessor, read_video


def reader(name: str = "alpro_video_eval", is_webvid: bool = True) -> FrameReader:
    config = DatasetConfig(vis_processor=FrameSection(train=FrameSettings(name=name, n_frms=4)))  # type: ignore[arg-type]
    return frame_reader(config, "webvid" if is_webvid else "x", VideoProcessor((28, 28)), 8, "pixel_values_videos")


def test_evaluation_frames_are_those_of_inference(samples: list[Sample]) -> None:
    frames, message = reader().read(samples[0], seed=1)
    served = read_video(samples[0].path, size=(28, 28), sampling=FrameSampling(num_frames=4))
    assert frames.shape == (4, 3, 28, 28)
    assert frames.dtype == torch.float32
    assert torch.equal(frames, torch.from_numpy(VideoProcessor((28, 28))(served.frames)))
    assert message == served.message
    assert torch.equal(reader().read(samples[0], seed=2)[0], frames)


def test_augmented_frames_depend_only_on_the_seed(samples: list[Sample]) -> None:
    drawn = reader("alpro_video_train")
    first, message = drawn.read(samples[0], seed=1)
    again, same_message = drawn.read(samples[0], seed=1)
    other, _ = drawn.read(samples[0], seed=2)
    assert torch.equal(first, again)
    assert message == same_message
    assert not torch.equal(first, other)


def test_only_webvid_frames_are_sampled_at_random(samples: list[Sample]) -> None:
    uniform = read_video(samples[0].path, size=(28, 28), sampling=FrameSampling(num_frames=4)).message
    assert {reader("alpro_video_train", False).read(samples[0], seed)[1] for seed in range(4)} == {uniform}
    assert len({reader("alpro_video_train").read(samples[0], seed)[1] for seed in range(4)}) > 1


def test_errors_name_the_annotation_and_the_file(tmp_path: Path) -> None:
    lost = Sample("rows:9", tmp_path / "lost.mp4", "video")
    with pytest.raises(MediaError, match=r"^rows:9: .*lost.mp4"):
        reader().read(lost, 0)
