"""Whole runs on real clips: the four stages, resuming as if nothing had happened, and what stops a run."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from video_llama.checkpoints.folder import ModelFolder, read_model_folder
from video_llama.config import load_yaml
from video_llama.errors import CheckpointError, ConfigError, DataError
from video_llama.training.checkpoint import checkpoints, newest_checkpoint
from video_llama.training.config import TrainConfig
from video_llama.training.merge import merge_into_folder
from video_llama.training.run import load_folder, train_from_config

Losses = Callable[[Path], list[float]]
Gain = Callable[..., float]
Write = Callable[..., Path]


@pytest.mark.parametrize(("branch", "noise"), [("vision", 0.0), ("audio", 0.5)])
def test_two_stages_learn_and_become_a_model_folder(
    write_yaml: Write, losses: Losses, gain: Gain, base: Path, tmp_path: Path, branch: str, noise: float
) -> None:
    model: dict[str, object] = {"clip_noise": noise}
    paths = [write_yaml(branch, 1, name="stage1", model=model, run={"batch_size_train": 12})]
    first = train_from_config(paths[0])
    model["ckpt"] = str(first)
    paths += [write_yaml(branch, 2, name="stage2", model=model, run={"batch_size_train": 36})]
    second = train_from_config(paths[1])
    for path, run in zip(paths, (first, second), strict=True):
        assert len(losses(run)) == 12
        assert gain(path) > 0
        assert len(checkpoints(run)) == 2
    parts = json.loads((second / "trained_parts.json").read_text())
    prefix = {"vision": "model.video_qformer.", "audio": "model.audio_qformer."}[branch]
    assert all(name.startswith(prefix) for name in parts["parameters"])
    assert load_yaml(second / "config.yaml")["run"]["batch_size_train"] == 36

    merged = merge_into_folder([second], base, tmp_path / "merged", name="trained", notice="a test")
    folder = read_model_folder(merged)
    assert folder.manifest.untrained_parts == tuple(
        part for part in ("model.video_qformer.", "model.audio_qformer.") if part != prefix
    )
    assert (folder.manifest.name, folder.manifest.notice) == ("trained", "a test")
    trained = load_file(newest_checkpoint(second) / "trained.safetensors")  # type: ignore[operator]
    before = read_model_folder(base).model.state_dict()
    for name, tensor in folder.model.state_dict().items():
        assert torch.equal(tensor, trained.get(name, before[name]))
    assert any(not torch.equal(trained[name], before[name]) for name in trained)


def test_cached_features_train_as_uncached_frames_do(write_yaml: Write, losses: Losses) -> None:
    for branch in ("vision", "audio"):
        model = {"clip_noise": 0.3}
        runs = [
            train_from_config(write_yaml(branch, name=f"{branch}{cached}", model=model, run={"cache_features": cached}))
            for cached in (True, False)
        ]
        assert losses(runs[0]) == losses(runs[1])


def test_augmented_frames_and_worker_processes(write_yaml: Write, losses: Losses) -> None:
    runs = [
        train_from_config(
            write_yaml(
                "vision",
                1,
                name=f"workers{count}",
                frames="alpro_video_train",
                run={"cache_features": False, "num_workers": count, "iters_per_epoch": 3},
            )
        )
        for count in (0, 2)
    ]
    assert losses(runs[0]) == losses(runs[1])


@pytest.mark.parametrize("branch", ["vision", "audio"])
def test_resuming_is_bit_identical(write_yaml: Write, losses: Losses, branch: str) -> None:
    model = {"clip_noise": 0.3}
    whole = train_from_config(write_yaml(branch, name="whole", model=model))
    cut = write_yaml(branch, name="cut", model=model)
    train_from_config(cut, max_steps=5)
    resumed = train_from_config(cut, resume="auto")
    assert losses(resumed) == losses(whole)
    weights = [load_file(newest_checkpoint(run) / "trained.safetensors") for run in (whole, resumed)]  # type: ignore[operator]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    assert train_from_config(cut, resume="auto") == resumed  # finished: nothing to do
    assert losses(resumed) == losses(whole)


def command(path: Path, *more: str) -> list[str]:
    root = Path(__file__).resolve().parents[2]
    return [sys.executable, str(root / "train.py"), "--cfg-path", str(path), *more]


def wait_for_steps(run: Path, count: int, process: subprocess.Popen[bytes]) -> None:
    path = run / "metrics.jsonl"
    while not path.exists() or path.read_text().count("\n") < count:
        assert process.poll() is None, "the run ended by itself"
        time.sleep(0.01)


@pytest.mark.slow
@pytest.mark.parametrize("steps", [1, 4, 8])
def test_a_killed_process_resumes_bit_identically(write_yaml: Write, losses: Losses, steps: int) -> None:
    longer = {"iters_per_epoch": 40}
    whole = train_from_config(write_yaml(name="whole", run=longer))
    path = write_yaml(name="killed", run=longer)
    process = subprocess.Popen(command(path, "--resume", "auto"), stderr=subprocess.DEVNULL)
    wait_for_steps(whole.parent / "killed", steps, process)
    process.kill()
    process.wait()
    assert train_from_config(path, resume="auto") == whole.parent / "killed"
    assert losses(whole.parent / "killed") == losses(whole)


@pytest.mark.slow
def test_ctrl_c_saves_and_leaves(write_yaml: Write, tmp_path: Path) -> None:
    path = write_yaml(run={"iters_per_epoch": 100_000, "save_every_steps": None})
    process = subprocess.Popen(command(path), stderr=subprocess.PIPE)
    wait_for_steps(tmp_path / "run", 2, process)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert b"--resume auto goes on from there" in errors
    num_steps = len((tmp_path / "run" / "metrics.jsonl").read_text().splitlines())
    assert newest_checkpoint(tmp_path / "run").name == f"step_{num_steps:06d}"  # type: ignore[union-attr]


def test_accumulated_batches_are_averaged_over_tokens(
    write_yaml: Write, losses: Losses, base_without_dropout: Path
) -> None:
    model = {"pretrained": str(base_without_dropout)}
    once = train_from_config(write_yaml(name="once", model=model, run={"batch_size_train": 4}))
    twice = {"batch_size_train": 2, "accum_grad_iters": 2}
    # Rows 2m and 2m+1 of the order make up batch m in both, and only the padding differs.
    assert losses(train_from_config(write_yaml(name="twice", model=model, run=twice))) == pytest.approx(
        losses(once), rel=1e-5
    )


def test_a_new_run_does_not_mix_with_one_that_is_there(write_yaml: Write) -> None:
    train_from_config(write_yaml(), max_steps=1)
    with pytest.raises(ConfigError, match=r"holds a run \(step_000001\). Go on with it"):
        train_from_config(write_yaml())
    with pytest.raises(CheckpointError, match="no checkpoint to resume from"):
        train_from_config(write_yaml(), resume="nowhere")


def test_another_batch_size_is_said_when_resuming(write_yaml: Write, caplog: pytest.LogCaptureFixture) -> None:
    path = write_yaml()
    train_from_config(path, max_steps=1)
    train_from_config(path, ["run.batch_size_train=2"], resume="auto", max_steps=2)
    assert "was written with 4 rows a batch" in caplog.text


def test_a_loss_that_is_not_finite_stops_with_the_rows(write_yaml: Write, tmp_path: Path) -> None:
    first = train_from_config(write_yaml(name="first"), max_steps=1)
    weights = load_file(newest_checkpoint(first) / "trained.safetensors")  # type: ignore[operator]
    weights["model.video_qformer.query_tokens"].fill_(float("nan"))
    save_file(weights, tmp_path / "nan.safetensors")
    path = write_yaml(name="second", model={"ckpt": str(tmp_path / "nan.safetensors")})
    with pytest.raises(
        DataError, match=r"The loss is nan at step 1 \(.*questions_seeing.json:\d+, .*lower run.init_lr"
    ):
        train_from_config(path)
    assert checkpoints(tmp_path / "second") == []


def test_a_gradient_that_is_not_finite_stops_before_it_changes_weights(
    write_yaml: Write, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def with_a_bad_gradient(*arguments: Any) -> ModelFolder:
        folder = load_folder(*arguments)
        folder.model.model.video_qformer.query_tokens.register_hook(lambda gradient: gradient * float("inf"))
        return folder

    monkeypatch.setattr("video_llama.training.run.load_folder", with_a_bad_gradient)
    with pytest.raises(DataError, match=r"The gradient's norm is (inf|nan) at step 1 \(.*questions_seeing.json:\d+"):
        train_from_config(write_yaml())
    assert checkpoints(tmp_path / "run") == []


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("model.pretrained=null", "neither model.pretrained nor model.llama_model is given"),
        ("model.pretrained=path/to/folder", r"model.pretrained \(path/to/folder\) is still a placeholder"),
        ("model.frozen_video_Qformer=true", None),
        ("model.num_video_query_token=32", "model.num_video_query_token is 32 and the model folder has 5"),
        ("model.model_type=pretrain_llama_v2", "model_type is pretrain_llama_v2 and the model folder's decoder"),
        ("datasets.webvid_instruct.vis_processor.train.n_frms=9", "n_frms is 9, the model has 8 positions"),
        (
            "datasets.webvid_instruct.vis_processor.train.image_size=224",
            "image_size is 224 and the model folder has 28",
        ),
        ("datasets.webvid_instruct.vis_processor.train.name=alpro_video_train", "run.cache_features: features of what"),
        ("datasets.webvid_instruct.branch=audio", "the audio branch is frozen here"),
        ("datasets.webvid_instruct.format=nothing", "unknown format 'nothing'"),
        ("model.prompt_path=nowhere.txt", "nowhere.txt does not exist"),
        ("model.ckpt=nowhere", "nowhere: no trained parts there"),
    ],
)
def test_settings_that_do_not_fit_are_refused(write_yaml: Write, override: str, message: str | None) -> None:
    if message is None:
        train_from_config(write_yaml(), [override], max_steps=1)  # the projection alone may train
        return
    with pytest.raises((ConfigError, DataError, CheckpointError), match=message):
        train_from_config(write_yaml(), [override])


def test_everything_frozen_is_refused(write_yaml: Write) -> None:
    with pytest.raises(ConfigError, match="everything is frozen"):
        train_from_config(write_yaml(), ["model.frozen_video_Qformer=true", "model.frozen_llama_proj=true"])


def test_the_command_prints_one_line_and_exits_2(write_yaml: Write) -> None:
    done = subprocess.run(
        command(write_yaml(), "--options", "run.init_lrr=1"), capture_output=True, text=True, env=os.environ
    )
    assert done.returncode == 2
    assert done.stderr.startswith("ConfigError: override run.init_lrr=1")
    assert "Did you mean init_lr?" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_the_settings_that_are_saved_are_the_settings_of_the_run(write_yaml: Write) -> None:
    run = train_from_config(write_yaml(), ["run.seed=7"], max_steps=1)
    saved = TrainConfig.model_validate(load_yaml(newest_checkpoint(run) / "config.yaml"))  # type: ignore[operator]
    assert saved.run.seed == 7
    assert saved == TrainConfig.model_validate(load_yaml(run / "config.yaml"))
