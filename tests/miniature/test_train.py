"""The stages of the miniature's training and its training configurations."""

from pathlib import Path

import pytest

from video_llama.config import load_config
from video_llama.datasets.annotations import read_samples
from video_llama.errors import CheckpointError, DataError
from video_llama.miniature import train
from video_llama.miniature.dataset import write_training_clips
from video_llama.miniature.train import STAGES, config_path, install_weights, moved_paths
from video_llama.training.config import TrainConfig
from video_llama.training.run import train_from_config

CONFIGS = [
    f"{branch}branch_{stage}" for branch in ("vision", "audio") for stage in ("stage1_pretrain", "stage2_finetune")
]


@pytest.fixture(scope="module")
def data_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("root")
    write_training_clips(root, seed=0, num_clips=4, workers=1)
    return root


def test_stages_need_only_existing_stages() -> None:
    for stage in STAGES.values():
        assert set(stage.needs) <= set(STAGES)


@pytest.mark.parametrize("name", CONFIGS)
def test_all_paths_of_a_configuration_move_to_another_root(name: str, tmp_path: Path) -> None:
    config = load_config(TrainConfig, config_path(name), moved_paths(name, tmp_path))
    assert config.model.pretrained == tmp_path / "base"
    assert config.run.output_dir.parent == tmp_path
    assert "runs/miniature" not in config.model_dump_json()
    assert config.run.cache_features


@pytest.mark.parametrize("name", CONFIGS)
def test_training_without_clips_or_base_names_the_command_that_makes_them(name: str, tmp_path: Path) -> None:
    overrides = [*moved_paths(name, tmp_path), "model.ckpt=''"]
    with pytest.raises(CheckpointError, match=r"base does not exist\. Make it with: video-llama miniature train"):
        train_from_config(config_path(name), overrides)
    config = load_config(TrainConfig, config_path(name), overrides)
    for key, dataset in config.datasets.items():
        with pytest.raises(DataError, match=r"does not exist\. Make the clips with: video-llama miniature clips"):
            read_samples(dataset.format or key, dataset.build_info, where=f"datasets.{key}")


@pytest.mark.parametrize("name", CONFIGS)
def test_training_clips_are_at_the_paths_of_the_configurations(name: str, data_root: Path) -> None:
    config = load_config(TrainConfig, config_path(name), moved_paths(name, data_root))
    for key, dataset in config.datasets.items():
        samples = read_samples(dataset.format or key, dataset.build_info, where=f"datasets.{key}")
        assert all(Path(str(sample.path)).is_file() for sample in samples)


def test_a_missing_configuration_is_an_error() -> None:
    with pytest.raises(CheckpointError, match="Reinstall the package"):
        config_path("none")


def test_installed_weights_replace_those_of_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train, "__file__", str(tmp_path / "train.py"))
    for name, text in (("old", "1"), ("new", "2")):
        (tmp_path / name).mkdir()
        (tmp_path / name / name).write_text(text)
    assert install_weights(tmp_path / "old") == tmp_path / "weights"
    install_weights(tmp_path / "new")
    assert [path.name for path in (tmp_path / "weights").iterdir()] == ["new"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["new", "old", "weights"]
