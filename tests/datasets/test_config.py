"""Data set settings: shards as a path or a list, defaults, and invalid values."""

import pytest

from video_llama.config import parse_config
from video_llama.datasets.config import DatasetConfig, FrameSettings
from video_llama.errors import ConfigError


def test_shards_are_a_path_or_a_list() -> None:
    for value in ("part.tar", ["part.tar"]):
        assert DatasetConfig.model_validate({"build_info": {"shards": value}}).build_info.shards == ("part.tar",)


def test_only_the_training_processors_augment() -> None:
    assert not FrameSettings().is_augmented
    assert FrameSettings(name="alpro_video_train").is_augmented


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"sampel_ratio": 2}, "sampel_ratio: unknown key. Did you mean sample_ratio?"),
        ({"sample_ratio": 0}, "sample_ratio: should be greater than 0"),
        ({"max_bad_share": 2}, "max_bad_share: should be less than or equal to 1"),
        ({"vis_processor": {"train": {"name": "alpro"}}}, r"vis_processor.train.name: .*alpro_video_eval"),
        ({"branch": "sound"}, "branch: .*vision"),
    ],
)
def test_errors_name_the_key(data: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_config(DatasetConfig, data, source="x.yaml")
