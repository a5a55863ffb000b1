"""The making of the miniature: stages in their order, side by side, once each; and its configurations."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from video_llama.config import load_config
from video_llama.datasets.annotations import read_samples
from video_llama.errors import CheckpointError, DataError
from video_llama.miniature.dataset import write_training_clips
from video_llama.miniature.train import STAGES, BuildStage, config_path, moved_paths, train_miniature
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


ORDERED = {"second": BuildStage(("first",), write_second), "first": BuildStage((), write_first)}


def test_stages_follow_their_needs_and_run_once(tmp_path: Path) -> None:
    for _ in range(2):
        train_miniature(tmp_path, seed=3, stages=ORDERED)
    assert (tmp_path / "log").read_text() == "first 3\nsecond\n"


def test_what_was_cut_off_goes_on(tmp_path: Path) -> None:
    stages = {"first": BuildStage((), write_first), "fails": BuildStage(("first",), fail_once)}
    with pytest.raises(CheckpointError, match="cut off"):
        train_miniature(tmp_path, stages=stages)
    train_miniature(tmp_path, stages=stages)
    assert (tmp_path / "log").read_text() == "first 0\n"
    assert (tmp_path / "fails.done").exists()


def sleep_long(root: Path, seed: int) -> None:
    (root / "pid").write_text(str(os.getpid()))
    time.sleep(600)


def read(path: Path) -> str:
    return path.read_text() if path.exists() else ""


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="looks processes up in /proc")
def test_workers_leave_with_a_killed_command(tmp_path: Path) -> None:
    code = (
        "from pathlib import Path; from tests.miniature.test_train import *\n"
        "if __name__ == '__main__':\n"
        f"    train_miniature(Path({str(tmp_path)!r}), stages={{'sleeps': BuildStage((), sleep_long)}})\n"
    )
    script = tmp_path / "command.py"
    script.write_text(code)
    root = str(Path(__file__).resolve().parents[2])
    command = subprocess.Popen([sys.executable, str(script)], env={**os.environ, "PYTHONPATH": root})
    worker = wait_for(lambda: int(text) if (text := read(tmp_path / "pid")) else None)
    assert is_running(worker)
    command.kill()
    command.wait()
    assert wait_for(lambda: True if not is_running(worker) else None)


def wait_for(look):
    """What ``look`` gives, as soon as it is not None."""
    for _ in range(600):
        if (found := look()) is not None:
            return found
        time.sleep(0.1)
    raise AssertionError("nothing happened within a minute")


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
def test_training_clips_are_where_the_configurations_look_for_them(name: str, data_root: Path) -> None:
    config = load_config(TrainConfig, config_path(name), moved_paths(name, data_root))
    for key, dataset in config.datasets.items():
        samples = read_samples(dataset.format or key, dataset.build_info, where=f"datasets.{key}")
        assert all(Path(str(sample.path)).is_file() for sample in samples)
