"""Validation during training, evaluation without training, and their errors."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from video_llama.conversation import IGNORE_INDEX
from video_llama.datasets.loading import Batch
from video_llama.errors import CheckpointError, ConfigError, DataError
from video_llama.training.checkpoint import read_trained
from video_llama.training.distributed import World
from video_llama.training.run import train_from_config
from video_llama.training.validation import SequentialOrder, Validation

Losses = Callable[[Path], list[float]]
Write = Callable[..., Path]


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture
def with_validation(write_yaml: Write, clips: Path) -> Callable[..., Path]:
    def write(name: str, every: int | None = 3, **run: Any) -> Path:
        info = {"anno_dir": str(clips / "questions_seeing.json"), "videos_dir": str(clips / "videos")}
        frames = {"train": {"name": "alpro_video_eval", "n_frms": 4}}
        valid = {"held_out": {"format": "webvid_instruct", "build_info": info, "vis_processor": frames}}
        settings = {"valid_every_steps": every, "batch_size_eval": 5, **run} if every else run
        return write_yaml(name=name, run=settings, **({"valid": valid} if every else {}))

    return write


def test_validation_does_not_affect_training(with_validation: Callable[..., Path], losses: Losses) -> None:
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
    # One batch or eight have different padding, and so different rounding.
    assert [row["loss"] for row in rows(again / "valid.jsonl")] == pytest.approx([r["loss"] for r in found], rel=1e-5)


def test_validation_continues_after_resuming(with_validation: Callable[..., Path]) -> None:
    path = with_validation("run")
    train_from_config(path, max_steps=7)
    run = train_from_config(path, resume="auto")
    assert [row["step"] for row in rows(run / "valid.jsonl")] == [3, 6, 9, 12]


def test_evaluation_equals_the_validation_of_the_run_and_trains_nothing(
    with_validation: Callable[..., Path], caplog: pytest.LogCaptureFixture
) -> None:
    path = with_validation("run", cache_features=True)
    run = train_from_config(path)
    before = {file: file.read_bytes() for file in run.rglob("*") if file.is_file()}
    alone = ["run.evaluate=true"]
    for resume in ("auto", run / "checkpoints" / "step_000012", run / "best"):
        train_from_config(path, alone, resume=resume)
    train_from_config(path, [*alone, f"model.ckpt={run / 'best'}"])
    assert "random weights" not in caplog.text
    train_from_config(path, alone)  # no checkpoint: the untrained weights of the folder
    found = rows(run / "evaluation.jsonl")
    validated = {int(row["step"]): row for row in rows(run / "valid.jsonl")}
    best = min(validated.values(), key=lambda row: float(row["loss"]))
    assert [row["step"] for row in found] == [12, 12, best["step"], 0, 0]
    assert [row["loss"] for row in found[:4]] == [validated[12]["loss"]] * 2 + [best["loss"]] * 2
    assert found[4]["loss"] not in [row["loss"] for row in found[:4]]
    assert all(row["num_tokens"] == validated[12]["num_tokens"] for row in found)
    used = [[str(run / "checkpoints" / "step_000012")]] * 2 + [[str(run / "best")]] * 2
    assert [row["weights"] for row in found[:4]] == used
    assert "has random weights that are not trained, and the loss depends on it" in caplog.text
    after = {file: file.read_bytes() for file in run.rglob("*") if file.is_file()}
    assert after == before | {run / "evaluation.jsonl": after[run / "evaluation.jsonl"]}


def test_evaluation_needs_data(write_yaml: Write) -> None:
    with pytest.raises(ConfigError, match=r"run.evaluate computes the loss on the data sets in the section valid"):
        train_from_config(write_yaml(), ["run.evaluate=true"])


def test_evaluation_of_a_missing_checkpoint_is_an_error(with_validation: Callable[..., Path]) -> None:
    with pytest.raises(CheckpointError, match=r"run has no checkpoint to evaluate. Give a checkpoint"):
        train_from_config(with_validation("run"), ["run.evaluate=true"], resume="auto")


@pytest.mark.parametrize(("loss", "label"), [(float("nan"), 7), (0.0, IGNORE_INDEX)])
def test_a_loss_that_is_not_finite_or_over_no_tokens_is_an_error(loss: float, label: int) -> None:
    ids = torch.tensor([[1, 7]])
    batch = Batch("held_out", ("a",), ids, torch.tensor([[IGNORE_INDEX, label]]), {})
    validation = Validation([batch], None, World(0, 1, torch.device("cpu")))  # type: ignore[arg-type]
    with pytest.raises(DataError, match=r"The validation loss is .* Check the valid data sets"):
        validation.run(0, lambda _: torch.tensor(loss))


def test_validation_needs_data_and_an_interval(write_yaml: Write) -> None:
    with pytest.raises(ConfigError, match=r"valid data sets require run.valid_every_steps and vice versa"):
        train_from_config(write_yaml(run={"valid_every_steps": 2}))


def test_errors_name_the_valid_section(with_validation: Callable[..., Path]) -> None:
    for setting in ("branch=audio", "vis_processor.train.n_frms=900"):
        with pytest.raises(ConfigError, match=rf"valid.held_out.{setting.partition('=')[0]}"):
            train_from_config(with_validation("run"), [f"valid.held_out.{setting}"])


def test_the_sampler_yields_every_row_once_in_file_order() -> None:
    order = SequentialOrder([3, 2], 2)
    batches = [(order[index].dataset, order[index].rows.tolist()) for index in range(len(order))]
    assert batches == [(0, [0, 1]), (0, [2]), (1, [0, 1])]
