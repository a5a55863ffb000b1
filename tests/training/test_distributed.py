"""Two processes give the losses of one with twice the batch, with DDP and with FSDP2, and resume after being killed."""

import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

from tests.training.conftest import yaml_writer
from video_llama.training.checkpoint import read_trained
from video_llama.training.run import train_from_config

Losses = Callable[[Path], list[float]]
ROOT = Path(__file__).resolve().parents[2]

LAUNCH = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT)}
NUM_STEPS_KILLED = 40

CLIPPED = {"grad_clip": 1.0}
MODES = ("ddp", "fsdp2")

pytestmark = pytest.mark.slow


@dataclass
class Runs:
    """Run folders by name ("one_...": one process with twice the batch; others: two processes), and their logs."""

    folder: Path
    errors: str

    def __getitem__(self, name: str) -> Path:
        return self.folder / name


def in_two_processes(jobs: list[tuple[Path, list[str], str | None, int | None]], folder: Path) -> str:
    (folder / "jobs.json").write_text(json.dumps([(str(path), *rest) for path, *rest in jobs]))
    command = [*LAUNCH, str(ROOT / "tests" / "training" / "run_jobs.py"), str(folder / "jobs.json")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280, env=ENVIRONMENT)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stderr


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, clips: Path, base: Path, base_without_dropout: Path) -> Runs:
    """Run all trainings for the tests below; those of two processes in a single launch."""
    folder = tmp_path_factory.mktemp("runs")
    writer = yaml_writer(folder, clips, base_without_dropout)

    def write(name: str, branch: str = "vision", rows: int = 2, mode: str = "ddp", **more: Any) -> Path:
        run = {"batch_size_train": rows, "distributed_mode": mode, **CLIPPED, **more.pop("run", {})}
        return writer(branch, name=name, run=run, **more)

    info = {"anno_dir": str(clips / "questions_seeing.json"), "videos_dir": str(clips / "videos")}
    held_out = {"format": "webvid_instruct", "build_info": info}
    held_out["vis_processor"] = {"train": {"name": "alpro_video_eval", "n_frms": 4}}  # type: ignore[assignment]
    validated: dict[str, Any] = {"valid": {"held_out": held_out}}
    validated["run"] = {"valid_every_steps": 3, "batch_size_eval": 8, "iters_per_epoch": 3}
    uncached = {"cache_features": False, "iters_per_epoch": 3}  # ImageBind runs outside the model's forward pass
    adapted = {"model": {"lora": {"r": 2}}, "run": {"accum_grad_iters": 2, "iters_per_epoch": 4}}

    train_from_config(write("one_vision", rows=4))
    train_from_config(write("one_audio", "audio", rows=4))
    train_from_config(write("one_valid", rows=4, **validated))
    packed: dict[str, Any] = {"model": {"lora": {"r": 2}, "quantization": "int8"}}
    train_from_config(write("one_packed", rows=4, **packed))
    jobs: list[tuple[Path, list[str], str | None, int | None]] = [(write("two_packed", **packed), [], None, None)]
    for branch in ("vision", "audio"):
        cut = write(f"two_{branch}", branch)
        jobs += [(cut, [], None, 5), (cut, [], "auto", None)]
    for mode in MODES:
        jobs += [(write(f"adapted_{mode}", mode=mode, **adapted), [], None, None)]
        jobs += [(write(f"uncached_{mode}", "audio", mode=mode, run=dict(uncached)), [], None, None)]
        validating = write(f"valid_{mode}", mode=mode, **validated | {"run": dict(validated["run"])})
        jobs += [(validating, [], None, None), (validating, ["run.evaluate=true"], "auto", None)]
    jobs += [(write("moved", mode="fsdp2"), [], None, 5)]
    for name in ("unbroken", "killed"):  # with dropout, which is different in each process
        drops_out = write(name, model={"pretrained": str(base)}, run={"iters_per_epoch": NUM_STEPS_KILLED})
        jobs += [(drops_out, [], None, None)] if name == "unbroken" else []
    errors = in_two_processes(jobs, folder)
    return Runs(folder, errors)


@pytest.mark.parametrize("kind", ["vision", "audio", "packed"])
def test_two_processes_are_one_with_twice_the_batch(runs: Runs, losses: Losses, kind: str) -> None:
    # Rounding differs: another order of summation and other padding, amplified by twelve steps.
    assert losses(runs[f"two_{kind}"]) == pytest.approx(losses(runs[f"one_{kind}"]), rel=1e-5)


@pytest.mark.parametrize("kind", ["adapted", "uncached"])
def test_fsdp2_gives_the_losses_of_ddp(runs: Runs, losses: Losses, kind: str) -> None:
    copies, shards = (runs[f"{kind}_{mode}"] for mode in MODES)
    assert losses(shards) == pytest.approx(losses(copies), rel=1e-5)  # another order of summation
    shapes = [{name: tensor.shape for name, tensor in read_trained(run).items()} for run in (copies, shards)]
    assert shapes[0] == shapes[1]


@pytest.mark.parametrize("mode", MODES)
def test_two_processes_give_the_validation_loss_of_one(runs: Runs, mode: str) -> None:
    [row], [its_row] = (
        [json.loads(line) for line in (runs[name] / "valid.jsonl").read_text().splitlines()]
        for name in ("one_valid", f"valid_{mode}")
    )
    assert its_row["loss"] == pytest.approx(row["loss"], rel=1e-5)
    assert its_row["num_tokens"] == row["num_tokens"]
    [evaluation] = [json.loads(line) for line in (runs[f"valid_{mode}"] / "evaluation.jsonl").read_text().splitlines()]
    assert (evaluation["step"], evaluation["loss"]) == (3, its_row["loss"])


def test_a_sharded_run_is_resumed_by_one_process_with_a_warning(
    runs: Runs, losses: Losses, caplog: pytest.LogCaptureFixture
) -> None:
    run = train_from_config(runs["moved.yaml"], ["run.batch_size_train=4"], resume="auto")
    assert "was written by 2 processes, but there are 1 now" in caplog.text
    assert losses(run) == pytest.approx(losses(runs["one_vision"]), rel=1e-5)


def kill_after(num_steps: int, path: Path, run: Path) -> None:
    """Train in two processes, and kill them and their launcher after ``num_steps`` steps."""
    command = [*LAUNCH, str(ROOT / "train.py"), "--cfg-path", str(path), "--resume", "auto"]
    launcher = psutil.Popen(command, stderr=subprocess.DEVNULL, env=ENVIRONMENT)
    metrics = run / "metrics.jsonl"
    while not metrics.exists() or metrics.read_text().count("\n") < num_steps:
        assert launcher.poll() is None, "the run ended too early"
        time.sleep(0.01)
    group = [launcher, *launcher.children(recursive=True)]
    assert len(group) >= 3
    for process in group:
        process.kill()
    psutil.wait_procs(group)


def test_two_killed_processes_resume_bit_by_bit(runs: Runs, losses: Losses) -> None:
    path, run = runs["killed.yaml"], runs["killed"]
    for num_steps in sorted(random.Random(3).sample(range(1, NUM_STEPS_KILLED - 8), 2)):
        kill_after(num_steps, path, run)
        assert len(losses(run)) < NUM_STEPS_KILLED
    in_two_processes([(path, [], "auto", None)], runs.folder)
    assert losses(run) == losses(runs["unbroken"])
    ends = [read_trained(each) for each in (run, runs["unbroken"])]
    assert all(torch.equal(ends[0][name], tensor) for name, tensor in ends[1].items())
