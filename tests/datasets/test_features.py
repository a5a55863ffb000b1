"""Features are computed once, equal the uncached ones, survive interruptions, and are never mixed up."""

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from video_llama.datasets.config import DatasetConfig, FrameSection, FrameSettings
from video_llama.datasets.content_hash import ContentHashes
from video_llama.datasets.features import CachedMedia, FeatureStore, cache_media
from video_llama.datasets.media import FrameReader, Readable, frame_reader
from video_llama.datasets.sample import Sample
from video_llama.errors import DataError, MediaError
from video_llama.files import is_damaged
from video_llama.processors.video_processor import VideoProcessor


def reader() -> FrameReader:
    config = DatasetConfig(vis_processor=FrameSection(train=FrameSettings(n_frms=4)))
    return frame_reader(config, "webvid", VideoProcessor((28, 28)), 8, "pixel_values_videos")


def mean_colour(frames: torch.Tensor) -> torch.Tensor:
    return frames.mean(dim=(-1, -2))


def cache(
    samples: Sequence[Sample], folder: Path, encode: Callable[[torch.Tensor], torch.Tensor] = mean_colour
) -> CachedMedia:
    return cache_media(samples, reader(), FeatureStore(folder / "one"), ContentHashes(folder), encode, "frame_tokens")


@dataclass
class Counted:
    """An encoder that counts its inputs."""

    num_media: int = 0

    def __call__(self, frames: torch.Tensor) -> torch.Tensor:
        self.num_media += len(frames)
        return mean_colour(frames)


def test_features_are_computed_once_and_equal_the_uncached(samples: list[Sample], tmp_path: Path) -> None:
    encode = Counted()
    for _ in range(2):
        media = cache([*samples, samples[0]], tmp_path, encode)
        for sample in samples:
            features, message = media.read(sample, seed=5)
            frames, its_message = reader().read(sample, seed=5)
            assert torch.equal(features, mean_colour(frames))
            assert message == its_message
    assert encode.num_media == 3
    assert len(FeatureStore(tmp_path / "one")) == 3


def test_equal_files_share_their_features_at_any_path(samples: list[Sample], tmp_path: Path) -> None:
    encode = Counted()
    kept = cache(samples, tmp_path, encode).read(samples[0], 0)[0]
    copy = shutil.copy(samples[0].path, tmp_path / "copy.mp4")
    moved = shutil.move(shutil.copy(samples[1].path, tmp_path / "b.mp4"), tmp_path / "c.mp4")
    media = cache([*samples, *(Sample("rows:9", Path(path), "video") for path in (copy, moved))], tmp_path, encode)
    assert torch.equal(media.read(Sample("rows:9", Path(copy), "video"), 0)[0], kept)
    assert encode.num_media == 3


def test_an_interrupted_extraction_is_continued(
    samples: list[Sample], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("video_llama.datasets.features.MEDIA_PER_CALL", 1)

    @dataclass
    class Interrupted(Counted):
        def __call__(self, frames: torch.Tensor) -> torch.Tensor:
            if self.num_media == 2:
                raise KeyboardInterrupt
            return super().__call__(frames)

    with pytest.raises(KeyboardInterrupt):
        cache(samples, tmp_path, Interrupted())
    encode = Counted()
    assert len(cache(samples, tmp_path, encode).keys) == 3
    assert encode.num_media == 1


def test_a_changed_file_is_computed_again(samples: list[Sample], tmp_path: Path) -> None:
    path = tmp_path / "clip.mp4"
    sample = Sample("rows:0", path, "video")
    kept = []
    for source in samples[:2]:
        path.write_bytes(source.path.read_bytes())
        kept.append(cache([sample], tmp_path).read(sample, 0)[0])
    assert not torch.equal(*kept)


def test_a_file_that_changes_while_it_is_read_is_an_error(samples: list[Sample], tmp_path: Path) -> None:
    path = Path(shutil.copy(samples[0].path, tmp_path / "clip.mp4"))

    class Slow(FrameReader):
        def read(self, sample: Readable, seed: int) -> tuple[torch.Tensor, str]:
            path.write_bytes(samples[1].path.read_bytes())
            return super().read(sample, seed)

    store, sample = FeatureStore(tmp_path / "one"), Sample("rows:0", path, "video")
    with pytest.raises(MediaError, match=r"rows:0: .*clip.mp4 changed while it was read"):
        cache_media([sample], Slow(**vars(reader())), store, ContentHashes(tmp_path), mean_colour, "frame_tokens")
    assert len(store) == 0


def test_shards_of_earlier_versions_are_reported_and_computed_again(
    samples: list[Sample], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    metadata = {"messages": json.dumps({"0123": ""})}
    (tmp_path / "one").mkdir()
    save_file({"0123": torch.zeros(2)}, tmp_path / "one" / "0123.safetensors", metadata)
    encode = Counted()
    assert len(cache(samples, tmp_path, encode).store) == encode.num_media == 3
    assert "1 shards, such as 0123.safetensors, use keys of path and time" in caplog.text
    assert (tmp_path / "one" / "0123.safetensors").exists()


@pytest.mark.parametrize("damage", ["one byte", "truncated", "empty", "checksum"])
def test_a_damaged_shard_is_computed_again(
    samples: list[Sample], tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: str
) -> None:
    before = cache(samples, tmp_path).read(samples[0], 0)[0].clone()
    [shard] = (tmp_path / "one").glob("*.safetensors")
    whole = shard.read_bytes()
    changes = {"one byte": whole[:-9] + bytes([whole[-9] ^ 1]) + whole[-8:], "truncated": whole[:40], "empty": b""}
    if damage == "checksum":
        shard.with_name(f"{shard.name}.sha256").write_text("")
    else:
        shard.write_bytes(changes[damage])
    encode = Counted()
    assert torch.equal(cache(samples, tmp_path, encode).read(samples[0], 0)[0], before)
    assert encode.num_media == 3
    assert f"{shard.name} is damaged" in caplog.text
    assert not is_damaged(shard)
    encode = Counted()
    cache(samples, tmp_path, encode)
    assert encode.num_media == 0


def test_shards_without_checksums_are_read(samples: list[Sample], tmp_path: Path) -> None:
    cache(samples, tmp_path)
    [checksum] = (tmp_path / "one").glob("*.sha256")
    checksum.unlink()
    encode = Counted()
    cache(samples, tmp_path, encode)
    assert encode.num_media == 0


def test_the_error_for_a_shard_that_cannot_be_written_names_the_remedy(samples: list[Sample], tmp_path: Path) -> None:
    (tmp_path / "one").write_text("in the way")
    with pytest.raises(DataError, match=r"safetensors cannot be written: .* Free disk space and run again"):
        cache(samples, tmp_path)


def test_errors_name_the_annotation_or_are_collected(tmp_path: Path) -> None:
    lost = Sample("rows:9", tmp_path / "lost.mp4", "video")
    with pytest.raises(MediaError, match=r"^rows:9: .*lost.mp4"):
        cache([lost], tmp_path)
    store, contents = FeatureStore(tmp_path / "one"), ContentHashes(tmp_path)
    media = cache_media([lost], reader(), store, contents, mean_colour, "frame_tokens", keeps_going=True)
    assert list(media.bad) == [lost.path]
    with pytest.raises(MediaError, match=r"^rows:9: .*lost.mp4"):
        media.read(lost, 0)
