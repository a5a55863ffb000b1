"""Checkpoints are complete or absent, limited in number, and refused for other models."""

import os
from pathlib import Path

import pytest
import torch
from torch import nn

from video_llama.errors import CheckpointError
from video_llama.training.checkpoint import (
    TrainingState,
    checkpoints,
    load_trained,
    newest_checkpoint,
    read_trained,
    restore_checkpoint,
    save_checkpoint,
    trained_tensors,
)


def model_and_optimizer() -> tuple[nn.Module, torch.optim.AdamW]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 4))
    model[1].requires_grad_(False)
    optimizer = torch.optim.AdamW(model[0].parameters(), lr=0.1)
    model(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    return model, optimizer


def save(run: Path, step: int, keep_last: int = 2) -> Path:
    model, optimizer = model_and_optimizer()
    tensors, text = trained_tensors(model), "run: {}\n"
    return save_checkpoint(run, tensors, optimizer.state_dict(), TrainingState(step, 1, 8), text, keep_last=keep_last)


def test_only_the_newest_are_kept_in_the_order_of_steps(tmp_path: Path) -> None:
    for step in (8, 9, 10, 1_000_000):
        save(tmp_path, step)
    assert [path.name for path in checkpoints(tmp_path)] == ["step_000010", "step_1000000"]
    assert newest_checkpoint(tmp_path / "other") is None


def test_trained_parameters_and_optimizer_are_restored(tmp_path: Path) -> None:
    folder = save(tmp_path, 5)
    assert sorted(read_trained(folder)) == ["0.bias", "0.weight"]
    assert read_trained(tmp_path).keys() == read_trained(folder / "trained.safetensors").keys()
    model, optimizer = model_and_optimizer()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    moments = optimizer.state_dict()["state"][0]["exp_avg"].clone()
    optimizer.step()
    assert restore_checkpoint(folder, model, optimizer) == TrainingState(5, 1, 8)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert torch.equal(optimizer.state_dict()["state"][0]["exp_avg"], moments)


def test_an_incomplete_checkpoint_is_ignored_and_replaced(tmp_path: Path) -> None:
    whole = save(tmp_path, 5)
    unfinished = tmp_path / "checkpoints" / ".step_000006.123.part"
    unfinished.mkdir()
    assert newest_checkpoint(tmp_path) == whole
    assert save(tmp_path, 6).name == "step_000006"
    assert not unfinished.exists()


def test_existing_checkpoints_are_kept_if_writing_fails(tmp_path: Path) -> None:
    whole = save(tmp_path, 5)
    (tmp_path / "checkpoints" / f".step_000006.{os.getpid()}.part").write_text("in the way")
    with pytest.raises(CheckpointError, match="Earlier checkpoints are kept"):
        save(tmp_path, 6)
    assert newest_checkpoint(tmp_path) == whole


def test_errors_for_other_models_and_damaged_files(tmp_path: Path) -> None:
    folder = save(tmp_path, 5)
    tensors = read_trained(folder)
    other = nn.Sequential(nn.Linear(3, 5))
    with pytest.raises(CheckpointError, match=r"0.weight has shape \[2, 3\], but \[5, 3\] in the model"):
        load_trained(other, {"0.weight": tensors["0.weight"]}, source="x")
    with pytest.raises(CheckpointError, match=r"x: 1\.weight is not a parameter of the model"):
        load_trained(other, {"1.weight": tensors["0.weight"]}, source="x")
    with pytest.raises(CheckpointError, match="it has no tensors"):
        load_trained(other, {}, source="x")
    model, optimizer = model_and_optimizer()
    model[1].requires_grad_(True)
    with pytest.raises(CheckpointError, match=r"other trained parameters than this run, such as 1\.bias"):
        restore_checkpoint(folder, model, optimizer)
    (folder / "state.json").write_text("{")
    with pytest.raises(CheckpointError, match="is incomplete"):
        restore_checkpoint(folder, *model_and_optimizer())
    (folder / "trained.safetensors").write_bytes(b"x")
    with pytest.raises(CheckpointError, match="cannot be read"):
        read_trained(folder)
    with pytest.raises(CheckpointError, match="has no trained parameters"):
        read_trained(tmp_path / "nowhere")
