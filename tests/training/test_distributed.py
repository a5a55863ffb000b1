"""Two processes under torchrun give the losses of one with twice the batch, with whole copies and with shards."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from video_llama.training.checkpoint import read_trained
from video_llama.training.run import train_from_config

Losses = Callable[[Path], list[float]]
Write = Callable[..., Path]


def torchrun(path: Path, *more: str) -> str:
    """Train with two processes; returns what they wrote to standard error."""
    root = Path(__file__).resolve().parents[2]
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    command = [*launch, str(root / "train.py"), "--cfg-path", str(path), *more]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, env=os.environ)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("branch", ["vision", "audio"])
def test_two_processes_are_one_with_twice_the_batch(
    write_yaml: Write, losses: Losses, base_without_dropout: Path, tmp_path: Path, branch: str
) -> None:
    model = {"pretrained": str(base_without_dropout)}
    one = train_from_config(write_yaml(branch, name="one", model=model, run={"batch_size_train": 4, "grad_clip": 1.0}))
    path = write_yaml(branch, name="two", model=model, run={"batch_size_train": 2, "grad_clip": 1.0})
    torchrun(path, "--max-steps", "5")
    torchrun(path, "--resume", "auto")
    # The sums run in another order and the halves are padded by themselves: rounding, which twelve steps make larger.
    assert losses(tmp_path / "two") == pytest.approx(losses(one), rel=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("branch", ["vision", "audio"])
def test_shards_give_the_numbers_of_copies(
    write_yaml: Write, losses: Losses, base_without_dropout: Path, tmp_path: Path, branch: str
) -> None:
    model = {"pretrained": str(base_without_dropout), "lora": {"r": 2}}
    run = {"batch_size_train": 2, "grad_clip": 1.0, "accum_grad_iters": 2, "iters_per_epoch": 6}
    if branch == "audio":
        run["cache_features"] = False  # frames go through ImageBind outside the model's forward pass
    for mode in ("ddp", "fsdp2"):
        torchrun(write_yaml(branch, name=mode, model=model, run={**run, "distributed_mode": mode}))
    # The same sums, reduced in another order.
    assert losses(tmp_path / "fsdp2") == pytest.approx(losses(tmp_path / "ddp"), rel=1e-5)
    copies, shards = (read_trained(tmp_path / mode) for mode in ("ddp", "fsdp2"))
    assert {name: tensor.shape for name, tensor in copies.items()} == {
        name: tensor.shape for name, tensor in shards.items()
    }


@pytest.mark.slow
def test_a_run_in_shards_goes_on_in_one_process_and_says_what_is_lost(
    write_yaml: Write, losses: Losses, base_without_dropout: Path, tmp_path: Path
) -> None:
    model = {"pretrained": str(base_without_dropout)}
    one = train_from_config(write_yaml(name="one", model=model, run={"batch_size_train": 4}))
    path = write_yaml(name="two", model=model, run={"batch_size_train": 2, "distributed_mode": "fsdp2"})
    torchrun(path, "--max-steps", "5")
    run = train_from_config(path, ["run.batch_size_train=4"], resume="auto", max_steps=8)
    assert json.loads((run / "checkpoints" / "step_000008" / "state.json").read_text())["world_size"] == 1
    errors = torchrun(path, "--resume", "auto")
    assert "was written by 1 processes, now there are 2" in errors
    assert losses(run) == pytest.approx(losses(one), rel=1e-5)


@pytest.mark.slow
def test_two_processes_validate_as_one(
    write_yaml: Write, base_without_dropout: Path, clips: Path, tmp_path: Path
) -> None:
    model = {"pretrained": str(base_without_dropout)}
    info = {"anno_dir": str(clips / "questions_seeing.json"), "videos_dir": str(clips / "videos")}
    frames = {"train": {"name": "alpro_video_eval", "n_frms": 4}}
    valid = {"held_out": {"format": "webvid_instruct", "build_info": info, "vis_processor": frames}}
    run = {"valid_every_steps": 3, "batch_size_eval": 8, "iters_per_epoch": 3}
    one = train_from_config(write_yaml(name="one", model=model, valid=valid, run={**run, "batch_size_train": 4}))
    for mode in ("ddp", "fsdp2"):
        settings = {**run, "batch_size_train": 2, "distributed_mode": mode}
        torchrun(write_yaml(name=mode, model=model, valid=valid, run=settings))
        row, its_row = (json.loads((folder / "valid.jsonl").read_text()) for folder in (one, tmp_path / mode))
        assert its_row["loss"] == pytest.approx(row["loss"], rel=1e-5)
        assert its_row["num_tokens"] == row["num_tokens"]
