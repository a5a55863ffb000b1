"""Two processes under torchrun give the losses of one with twice the batch."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from video_llama.training.run import train_from_config

Losses = Callable[[Path], list[float]]
Write = Callable[..., Path]


def torchrun(path: Path, *more: str) -> None:
    root = Path(__file__).resolve().parents[2]
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    command = [*launch, str(root / "train.py"), "--cfg-path", str(path), *more]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, env=os.environ)
    assert done.returncode == 0, done.stderr[-3000:]


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
