"""Whole runs on real clips: the four stages, resuming bit by bit, and errors."""

import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from video_llama.checkpoints.folder import read_model_folder
from video_llama.config import load_config, load_yaml
from video_llama.errors import CheckpointError, ConfigError, DataError
from video_llama.models import cpu as cpu_module
from video_llama.models.cpu import Processor
from video_llama.training import run as training_run
from video_llama.training.checkpoint import checkpoints, newest_checkpoint
from video_llama.training.config import TrainConfig
from video_llama.training.distributed import World
from video_llama.training.merge import merge_into_folder
from video_llama.training.run import train_from_config

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
    assert train_from_config(cut, resume="auto") == resumed  # finished: no steps are left
    assert losses(resumed) == losses(whole)


def command(path: Path, *more: str) -> list[str]:
    root = Path(__file__).resolve().parents[2]
    return [sys.executable, str(root / "train.py"), "--cfg-path", str(path), *more]


def wait_for_steps(run: Path, count: int, process: subprocess.Popen[bytes]) -> None:
    path = run / "metrics.jsonl"
    while not path.exists() or path.read_text().count("\n") < count:
        assert process.poll() is None, "the run ended too early"
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
def test_ctrl_c_saves_and_stops(write_yaml: Write, tmp_path: Path) -> None:
    path = write_yaml(run={"iters_per_epoch": 100_000, "save_every_steps": None})
    process = subprocess.Popen(command(path), stderr=subprocess.PIPE)
    wait_for_steps(tmp_path / "run", 2, process)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert b"continue with --resume auto" in errors
    num_steps = len((tmp_path / "run" / "metrics.jsonl").read_text().splitlines())
    assert newest_checkpoint(tmp_path / "run").name == f"step_{num_steps:06d}"  # type: ignore[union-attr]


def test_a_new_run_in_the_folder_of_another_is_an_error(write_yaml: Write) -> None:
    train_from_config(write_yaml(), max_steps=1)
    with pytest.raises(ConfigError, match=r"already contains a run \(step_000001\)\. Resume it"):
        train_from_config(write_yaml())
    with pytest.raises(CheckpointError, match="is not a checkpoint folder"):
        train_from_config(write_yaml(), resume="nowhere")


@pytest.mark.parametrize("edit", ["an answer", "a row less", "another order", "another video"])
def test_resuming_with_edited_rows_is_an_error(write_yaml: Write, clips: Path, tmp_path: Path, edit: str) -> None:
    rows = json.loads((clips / "questions_seeing.json").read_text())
    path = tmp_path / "rows.json"
    path.write_text(json.dumps(rows))
    override = [f"datasets.webvid_instruct.build_info.anno_dir={path}"]
    config = write_yaml()
    run = train_from_config(config, override, max_steps=1)
    moved = path.rename(tmp_path / "moved.json")  # the name of the file does not count
    train_from_config(config, [override[0].replace("rows.json", "moved.json")], resume="auto", max_steps=2)
    if edit == "an answer":
        rows[0]["QA"][0]["a"] += "!"
    elif edit == "a row less":
        rows = rows[1:]
    elif edit == "another order":
        rows = rows[::-1]
    else:
        rows[0]["video"] = rows[-1]["video"]
    moved.unlink()
    path.write_text(json.dumps(rows))
    with pytest.raises(CheckpointError, match=r"datasets\.webvid_instruct: the rows have changed since .*step_000002"):
        train_from_config(config, override, resume="auto")
    assert len((run / "metrics.jsonl").read_text().splitlines()) == 2


LOCKED = """
import sys
from video_llama.errors import CheckpointError
from video_llama.training.run import train_from_config
try:
    train_from_config(sys.argv[1], resume="auto")
except CheckpointError as error:
    print(error)
"""


def test_a_second_run_in_one_folder_is_an_error(write_yaml: Write, losses: Losses, tmp_path: Path) -> None:
    path = write_yaml()
    run = train_from_config(path, max_steps=2)
    with (run / "run.lock").open("r+") as file:
        fcntl.lockf(file, fcntl.LOCK_EX)
        done = subprocess.run([sys.executable, "-c", LOCKED, str(path)], capture_output=True, text=True, timeout=120)
    assert "is in use by another run (process" in done.stdout, done.stderr[-2000:]
    assert len(losses(run)) == 2
    train_from_config(path, resume="auto", max_steps=3)  # the lock ended with its process


def test_resuming_with_another_batch_size_is_a_warning(write_yaml: Write, caplog: pytest.LogCaptureFixture) -> None:
    path = write_yaml()
    train_from_config(path, max_steps=1)
    train_from_config(path, ["run.batch_size_train=2"], resume="auto", max_steps=2)
    assert "was written with 4 rows per batch" in caplog.text


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("model.pretrained=null", "neither model.pretrained nor model.llama_model is set"),
        ("model.pretrained=path/to/folder", r"model.pretrained \(path/to/folder\) is still a placeholder"),
        ("model.frozen_video_Qformer=true", None),
        ("model.num_video_query_token=32", "model.num_video_query_token is 32, but the model folder has 5"),
        ("model.model_type=pretrain_llama_v2", "model_type is pretrain_llama_v2, but the decoder of the model folder"),
        ("datasets.webvid_instruct.vis_processor.train.n_frms=9", "n_frms is 9, but the model has 8 positions"),
        (
            "datasets.webvid_instruct.vis_processor.train.image_size=224",
            "image_size is 224, but the model folder has 28",
        ),
        (
            "datasets.webvid_instruct.vis_processor.train.name=alpro_video_train",
            "features cannot be cached with",
        ),
        ("datasets.webvid_instruct.branch=audio", "the audio branch is frozen. Remove"),
        ("datasets.webvid_instruct.format=nothing", "unknown format 'nothing'"),
        ("model.prompt_path=nowhere.txt", "nowhere.txt does not exist"),
        ("model.ckpt=nowhere", "nowhere has no trained parameters"),
    ],
)
def test_errors_for_settings_that_contradict_the_model(write_yaml: Write, override: str, message: str | None) -> None:
    if message is None:
        train_from_config(write_yaml(), [override], max_steps=1)  # training only the projection is valid
        return
    with pytest.raises((ConfigError, DataError, CheckpointError), match=message):
        train_from_config(write_yaml(), [override])


def test_freezing_all_parameters_is_an_error(write_yaml: Write) -> None:
    with pytest.raises(ConfigError, match="all parameters are frozen"):
        train_from_config(write_yaml(), ["model.frozen_video_Qformer=true", "model.frozen_llama_proj=true"])


def test_the_command_prints_one_line_and_exits_2(write_yaml: Write) -> None:
    done = subprocess.run(
        command(write_yaml(), "--options", "run.init_lrr=1"), capture_output=True, text=True, env=os.environ
    )
    assert done.returncode == 2
    assert done.stderr.startswith("ConfigError: override run.init_lrr=1")
    assert "Did you mean init_lr?" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_the_saved_settings_are_those_of_the_run(write_yaml: Write) -> None:
    run = train_from_config(write_yaml(), ["run.seed=7"], max_steps=1)
    saved = TrainConfig.model_validate(load_yaml(newest_checkpoint(run) / "config.yaml"))  # type: ignore[operator]
    assert saved.run.seed == 7
    assert saved == TrainConfig.model_validate(load_yaml(run / "config.yaml"))


def test_fp16_requires_a_gpu(write_yaml: Write) -> None:
    with pytest.raises(ConfigError, match=r"run.dtype: fp16 requires a GPU, but this run uses the CPU. Set"):
        train_from_config(write_yaml(run={"dtype": "fp16"}))


@pytest.mark.parametrize("has_bfloat16", [True, False])
def test_bf16_that_the_processor_emulates(
    write_yaml: Write, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, has_bfloat16: bool
) -> None:
    cpu = Processor("a test CPU", ("avx2",), has_bfloat16=has_bfloat16, has_fbgemm=True)
    for module in (cpu_module, training_run):
        monkeypatch.setattr(module, "processor", lambda: cpu)
    config = load_config(TrainConfig, write_yaml(run={"dtype": "bf16"}))
    with caplog.at_level("WARNING"):
        training_run.check_combinations(config, World(0, 1, torch.device("cpu")))
    assert ("this processor (a test CPU) emulates bf16" in caplog.text) is not has_bfloat16


FULL_DISK = """
import resource, sys
from video_llama.errors import CheckpointError
from video_llama.training.run import train_from_config
for largest_file in (0, 4096):  # in the second case metrics and settings can be written, but not weights
    resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, resource.RLIM_INFINITY))
    try:
        train_from_config(sys.argv[1], resume="auto")
    except CheckpointError as error:
        print(error)
"""


def test_a_full_disk_loses_nothing(write_yaml: Write, losses: Losses) -> None:
    path = write_yaml()
    run = train_from_config(path, max_steps=6)
    kept = {
        file: file.read_bytes() for file in run.rglob("*") if file.is_file() and file.suffix not in (".png", ".lock")
    }
    done = subprocess.run([sys.executable, "-c", FULL_DISK, str(path)], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.count("File too large") == len(done.stdout.splitlines()) == 2
    for file, content in kept.items():
        assert file.read_bytes()[: len(content)] == content  # metrics.jsonl may have grown
    assert [folder.name for folder in checkpoints(run)] == ["step_000003", "step_000006"]
    assert len(losses(train_from_config(path, resume="auto"))) == 12
