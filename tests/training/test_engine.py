"""What changes how a run is computed and not what: recomputed activations, compiled layers, fp16; validation."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from video_llama.checkpoints.folder import read_model_folder
from video_llama.conversation import IGNORE_INDEX
from video_llama.datasets.loading import Batch
from video_llama.errors import CheckpointError, ConfigError, DataError
from video_llama.training.checkpoint import checkpoints, read_trained
from video_llama.training.distributed import World
from video_llama.training.memory import compile_decoder
from video_llama.training.run import train_from_config
from video_llama.training.validation import Validation

Losses = Callable[[Path], list[float]]
Write = Callable[..., Path]


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_recomputed_activations_change_no_number(write_yaml: Write, losses: Losses) -> None:
    runs = [
        train_from_config(write_yaml(name=f"again{again}", run={"activation_checkpointing": again}), max_steps=4)
        for again in (False, True)
    ]
    assert losses(runs[0]) == losses(runs[1])  # dropout too: the generator's state is put back


@pytest.mark.slow
def test_compiled_layers_give_the_same_numbers(base: Path) -> None:
    ids = torch.arange(3, 23)[None]
    model = read_model_folder(base).model
    del model.model.language_model.layers[1:]  # one layer is compiled in half the time of two
    with torch.no_grad():
        plain = model(input_ids=ids).logits
        compile_decoder(model)
        compiled = model(input_ids=ids).logits
    torch.testing.assert_close(compiled, plain, rtol=1e-4, atol=1e-5)  # kernels are fused: another rounding


def test_fp16_is_for_gpus(write_yaml: Write) -> None:
    with pytest.raises(ConfigError, match=r"run.dtype: fp16 is for GPUs, and this run is on the CPU. Set fp32 or bf16"):
        train_from_config(write_yaml(run={"dtype": "fp16"}))


@pytest.mark.gpu
def test_fp16_scales_the_loss_and_resumes_its_scale(write_yaml: Write, losses: Losses) -> None:
    run = {"dtype": "fp16", "device": "cuda"}
    whole = train_from_config(write_yaml(name="whole", run=run))
    cut = write_yaml(name="cut", run=run)
    train_from_config(cut, max_steps=5)
    resumed = train_from_config(cut, resume="auto")
    assert losses(resumed) == pytest.approx(losses(whole), rel=1e-3)
    state = json.loads((checkpoints(resumed)[-1] / "state.json").read_text())
    assert state["scaler"]["scale"] > 0


@pytest.fixture
def with_validation(write_yaml: Write, clips: Path) -> Callable[..., Path]:
    def write(name: str, every: int | None = 3, **run: Any) -> Path:
        info = {"anno_dir": str(clips / "questions_seeing.json"), "videos_dir": str(clips / "videos")}
        frames = {"train": {"name": "alpro_video_eval", "n_frms": 4}}
        valid = {"held_out": {"format": "webvid_instruct", "build_info": info, "vis_processor": frames}}
        settings = {"valid_every_steps": every, "batch_size_eval": 5, **run} if every else run
        return write_yaml(name=name, run=settings, **({"valid": valid} if every else {}))

    return write


def test_validation_changes_nothing_and_keeps_the_best(with_validation: Callable[..., Path], losses: Losses) -> None:
    without = train_from_config(with_validation("without", every=None))
    run = train_from_config(with_validation("with"))
    assert losses(run) == losses(without)
    found = rows(run / "valid.jsonl")
    assert [row["step"] for row in found] == [3, 6, 9, 12]
    best = json.loads((run / "best" / "valid.json").read_text())
    assert best == min(found, key=lambda row: float(row["loss"]))
    at_best = read_trained(run / "best")
    same = [torch.equal(at_best[name], tensor) for name, tensor in read_trained(run).items()]
    assert all(same) == (best["step"] == 12)
    again = train_from_config(with_validation("again", batch_size_eval=100))
    # One batch or eight, which pad their rows differently: rounding.
    assert [row["loss"] for row in rows(again / "valid.jsonl")] == pytest.approx([r["loss"] for r in found], rel=1e-5)


def test_validation_goes_on_after_a_resume(with_validation: Callable[..., Path]) -> None:
    path = with_validation("run")
    train_from_config(path, max_steps=7)
    run = train_from_config(path, resume="auto")
    assert [row["step"] for row in rows(run / "valid.jsonl")] == [3, 6, 9, 12]


def test_an_evaluation_is_the_runs_own_validation_and_trains_nothing(
    with_validation: Callable[..., Path], caplog: pytest.LogCaptureFixture
) -> None:
    path = with_validation("run", cache_features=True)
    run = train_from_config(path)
    before = {file: file.read_bytes() for file in run.rglob("*") if file.is_file()}
    alone = ["run.evaluate=true"]
    for resume in ("auto", run / "checkpoints" / "step_000012", run / "best"):
        train_from_config(path, alone, resume=resume)
    train_from_config(path, [*alone, f"model.ckpt={run / 'best'}"])
    assert "stays so" not in caplog.text
    train_from_config(path, alone)  # no checkpoint: the folder's own weights, which nothing has trained
    found = rows(run / "evaluation.jsonl")
    validated = {int(row["step"]): row for row in rows(run / "valid.jsonl")}
    best = min(validated.values(), key=lambda row: float(row["loss"]))
    assert [row["step"] for row in found] == [12, 12, best["step"], 0, 0]
    assert [row["loss"] for row in found[:4]] == [validated[12]["loss"]] * 2 + [best["loss"]] * 2
    assert found[4]["loss"] not in [row["loss"] for row in found[:4]]
    assert all(row["num_tokens"] == validated[12]["num_tokens"] for row in found)
    used = [[str(run / "checkpoints" / "step_000012")]] * 2 + [[str(run / "best")]] * 2
    assert [row["weights"] for row in found[:4]] == used
    assert "is random and stays so, and the loss is taken through it" in caplog.text
    after = {file: file.read_bytes() for file in run.rglob("*") if file.is_file()}
    assert after == before | {run / "evaluation.jsonl": after[run / "evaluation.jsonl"]}


def test_an_evaluation_needs_data(write_yaml: Write) -> None:
    with pytest.raises(ConfigError, match=r"run.evaluate takes the loss on the data sets of the section valid"):
        train_from_config(write_yaml(), ["run.evaluate=true"])


def test_an_evaluation_needs_the_checkpoint_it_is_told_of(with_validation: Callable[..., Path]) -> None:
    with pytest.raises(CheckpointError, match=r"run has no checkpoint to evaluate. Name one"):
        train_from_config(with_validation("run"), ["run.evaluate=true"], resume="auto")


@pytest.mark.parametrize(("loss", "label"), [(float("nan"), 7), (0.0, IGNORE_INDEX)])
def test_a_validation_loss_that_says_nothing_is_an_error(loss: float, label: int) -> None:
    ids = torch.tensor([[1, 7]])
    batch = Batch("held_out", ("a",), ids, torch.tensor([[IGNORE_INDEX, label]]), {})
    validation = Validation([batch], None, World(0, 1, torch.device("cpu")))  # type: ignore[arg-type]
    with pytest.raises(DataError, match=r"The validation loss is .* Look at the valid data sets"):
        validation.run(0, lambda _: torch.tensor(loss))


def test_validation_needs_data_and_times(write_yaml: Write) -> None:
    with pytest.raises(ConfigError, match=r"valid data sets and run.valid_every_steps go together"):
        train_from_config(write_yaml(run={"valid_every_steps": 2}))


def test_a_fault_in_the_valid_section_is_named_there(with_validation: Callable[..., Path]) -> None:
    for fault in ("branch=audio", "vis_processor.train.n_frms=900"):
        with pytest.raises(ConfigError, match=rf"valid.held_out.{fault.partition('=')[0]}"):
            train_from_config(with_validation("run"), [f"valid.held_out.{fault}"])


def test_tensorboard_and_curves_are_written_on_request(write_yaml: Write) -> None:
    pytest.importorskip("tensorboard")
    run = train_from_config(write_yaml(run={"tensorboard": True}), max_steps=2)
    assert list((run / "tensorboard").glob("events.*"))
    pytest.importorskip("matplotlib")
    assert (run / "curves.png").stat().st_size > 0


FULL_DISK = """
import resource, sys
from video_llama.errors import CheckpointError
from video_llama.training.run import train_from_config
for largest_file in (0, 4096):  # nothing can be written; metrics and settings can, weights not
    resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, resource.RLIM_INFINITY))
    try:
        train_from_config(sys.argv[1], resume="auto")
    except CheckpointError as error:
        print(error)
"""


def test_a_full_disk_loses_nothing(write_yaml: Write, losses: Losses) -> None:
    path = write_yaml()
    run = train_from_config(path, max_steps=6)
    kept = {file: file.read_bytes() for file in run.rglob("*") if file.is_file() and file.suffix != ".png"}
    done = subprocess.run([sys.executable, "-c", FULL_DISK, str(path)], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.count("File too large") == len(done.stdout.splitlines()) == 2
    for file, content in kept.items():
        assert file.read_bytes()[: len(content)] == content  # metrics.jsonl may have grown
    assert [folder.name for folder in checkpoints(run)] == ["step_000003", "step_000006"]
    assert len(losses(train_from_config(path, resume="auto"))) == 12
