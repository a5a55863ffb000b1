"""The making of the miniature: stages in their order, side by side, once each; and its configurations."""

from pathlib import Path

import pytest

from video_llama.config import load_config
from video_llama.errors import CheckpointError
from video_llama.miniature.train import STAGES, Stage, config_path, moved_paths, train_miniature
from video_llama.training.config import TrainConfig

CONFIGS = [
    f"{branch}branch_{stage}" for branch in ("vision", "audio") for stage in ("stage1_pretrain", "stage2_finetune")
]


def write_first(root: Path, seed: int) -> None:
    with (root / "log").open("a") as file:
        file.write(f"first {seed}\n")


def write_second(root: Path, seed: int) -> None:
    assert (root / "log").exists()
    with (root / "log").open("a") as file:
        file.write("second\n")


def fail_once(root: Path, seed: int) -> None:
    if not (root / "failed").exists():
        (root / "failed").touch()
        raise CheckpointError("cut off")


ORDERED = {"second": Stage(("first",), write_second), "first": Stage((), write_first)}


def test_stages_follow_their_needs_and_run_once(tmp_path: Path) -> None:
    for _ in range(2):
        train_miniature(tmp_path, seed=3, stages=ORDERED)
    assert (tmp_path / "log").read_text() == "first 3\nsecond\n"


def test_what_was_cut_off_goes_on(tmp_path: Path) -> None:
    stages = {"first": Stage((), write_first), "fails": Stage(("first",), fail_once)}
    with pytest.raises(CheckpointError, match="cut off"):
        train_miniature(tmp_path, stages=stages)
    train_miniature(tmp_path, stages=stages)
    assert (tmp_path / "log").read_text() == "first 0\n"
    assert (tmp_path / "fails.done").exists()


def test_another_seed_is_refused(tmp_path: Path) -> None:
    train_miniature(tmp_path, seed=3, stages=ORDERED)
    with pytest.raises(CheckpointError, match="was begun with --seed 3"):
        train_miniature(tmp_path, seed=4, stages=ORDERED)


def test_every_need_is_a_stage() -> None:
    for stage in STAGES.values():
        assert set(stage.needs) <= set(STAGES)


@pytest.mark.parametrize("name", CONFIGS)
def test_configurations_move_to_another_root_as_a_whole(name: str, tmp_path: Path) -> None:
    config = load_config(TrainConfig, config_path(name), moved_paths(name, tmp_path))
    assert config.model.pretrained == tmp_path / "base"
    assert config.run.output_dir.parent == tmp_path
    assert "runs/miniature" not in config.model_dump_json()
    assert config.run.cache_features
