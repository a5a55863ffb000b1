"""Frames and their features: the same frames as serving reads, and a store that neither forgets nor mixes."""

from pathlib import Path

import numpy as np
import pytest
import torch

from video_llama.datasets.config import DatasetConfig, FrameSection, FrameSettings
from video_llama.datasets.features import FeatureStore, cache_media
from video_llama.datasets.media import FrameReader, frame_reader
from video_llama.datasets.sample import Sample
from video_llama.errors import DataError, MediaError
from video_llama.miniature.world import sample_scene, write_clip
from video_llama.processors import FrameSampling, VideoProcessor, read_video


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> list[Sample]:
    folder = tmp_path_factory.mktemp("clips")
    found = []
    for index in range(3):
        path = folder / f"{index}.mp4"
        write_clip(sample_scene(np.random.default_rng(index), "any"), path)
        found.append(Sample(f"rows:{index}", path, "video", caption="a clip"))
    return found


def reader(name: str = "alpro_video_eval", is_webvid: bool = True) -> FrameReader:
    config = DatasetConfig(vis_processor=FrameSection(train=FrameSettings(name=name, n_frms=4)))  # type: ignore[arg-type]
    return frame_reader(config, "webvid" if is_webvid else "x", VideoProcessor((28, 28)), 8, "pixel_values_videos")


def test_evaluation_frames_are_those_of_serving(samples: list[Sample]) -> None:
    frames, message = reader().read(samples[0], seed=1)
    served = read_video(samples[0].path, size=(28, 28), sampling=FrameSampling(num_frames=4))
    assert frames.shape == (4, 3, 28, 28)
    assert frames.dtype == torch.float32
    assert torch.equal(frames, torch.from_numpy(VideoProcessor((28, 28))(served.frames)))
    assert message == served.message
    assert torch.equal(reader().read(samples[0], seed=2)[0], frames)


def test_augmented_frames_follow_from_the_seed(samples: list[Sample]) -> None:
    drawn = reader("alpro_video_train")
    first, message = drawn.read(samples[0], seed=1)
    again, same_message = drawn.read(samples[0], seed=1)
    other, _ = drawn.read(samples[0], seed=2)
    assert torch.equal(first, again)
    assert message == same_message
    assert not torch.equal(first, other)


def test_only_webvid_draws_its_frames(samples: list[Sample]) -> None:
    uniform = read_video(samples[0].path, size=(28, 28), sampling=FrameSampling(num_frames=4)).message
    assert {reader("alpro_video_train", False).read(samples[0], seed)[1] for seed in range(4)} == {uniform}
    assert len({reader("alpro_video_train").read(samples[0], seed)[1] for seed in range(4)}) > 1


def test_an_unreadable_file_is_named_with_its_row(tmp_path: Path) -> None:
    lost = Sample("rows:9", tmp_path / "lost.mp4", "video")
    for call in (lambda: reader().read(lost, 0), lambda: reader().key(lost)):
        with pytest.raises(MediaError, match=r"rows:9: .*lost.mp4"):
            call()


def mean_colour(frames: torch.Tensor) -> torch.Tensor:
    return frames.mean(dim=(-1, -2))


def test_features_are_computed_once_and_equal_the_uncached(samples: list[Sample], tmp_path: Path) -> None:
    calls: list[int] = []

    def encode(frames: torch.Tensor) -> torch.Tensor:
        calls.append(len(frames))
        return mean_colour(frames)

    for _ in range(2):
        media = cache_media([*samples, samples[0]], reader(), FeatureStore(tmp_path), encode, "frame_tokens")
        for sample in samples:
            features, message = media.read(sample, seed=5)
            frames, its_message = reader().read(sample, seed=5)
            assert torch.equal(features, mean_colour(frames))
            assert message == its_message
    assert calls == [3]
    assert len(FeatureStore(tmp_path)) == 3


def test_a_changed_file_is_computed_anew(samples: list[Sample], tmp_path: Path) -> None:
    path = tmp_path / "clip.mp4"
    sample = Sample("rows:0", path, "video")
    kept = []
    for source in samples[:2]:
        path.write_bytes(source.path.read_bytes())
        store = FeatureStore(tmp_path / "store")
        kept.append(cache_media([sample], reader(), store, mean_colour, "frame_tokens").read(sample, 0)[0])
    assert not torch.equal(*kept)


def test_a_damaged_shard_says_what_to_do(samples: list[Sample], tmp_path: Path) -> None:
    cache_media(samples, reader(), FeatureStore(tmp_path), mean_colour, "frame_tokens")
    [shard] = tmp_path.iterdir()
    shard.write_bytes(shard.read_bytes()[:40])
    with pytest.raises(DataError, match="Delete it: it is computed anew"):
        FeatureStore(tmp_path)
