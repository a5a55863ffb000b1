"""Checkpoints: whole or not there, only as many as wanted, and refused where they do not belong."""

from pathlib import Path

import pytest
import torch
from torch import nn

from video_llama.errors import CheckpointError
from video_llama.training.checkpoint import (
    State,
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
    return save_checkpoint(run, tensors, optimizer.state_dict(), State(step, 1, 8), text, keep_last=keep_last)


def test_only_the_newest_are_kept_in_the_order_of_steps(tmp_path: Path) -> None:
    for step in (8, 9, 10, 1_000_000):
        save(tmp_path, step)
    assert [path.name for path in checkpoints(tmp_path)] == ["step_000010", "step_1000000"]
    assert newest_checkpoint(tmp_path / "other") is None


def test_the_trained_parts_and_the_optimizer_come_back(tmp_path: Path) -> None:
    folder = save(tmp_path, 5)
    assert sorted(read_trained(folder)) == ["0.bias", "0.weight"]
    assert read_trained(tmp_path).keys() == read_trained(folder / "trained.safetensors").keys()
    model, optimizer = model_and_optimizer()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    moments = optimizer.state_dict()["state"][0]["exp_avg"].clone()
    optimizer.step()
    assert restore_checkpoint(folder, model, optimizer) == State(5, 1, 8)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert torch.equal(optimizer.state_dict()["state"][0]["exp_avg"], moments)


def test_half_a_checkpoint_is_not_one(tmp_path: Path) -> None:
    whole = save(tmp_path, 5)
    (tmp_path / "checkpoints" / ".step_000006.part").mkdir()
    assert newest_checkpoint(tmp_path) == whole
    assert save(tmp_path, 6).name == "step_000006"


def test_a_place_that_cannot_be_written_keeps_what_was_there(tmp_path: Path) -> None:
    whole = save(tmp_path, 5)
    (tmp_path / "checkpoints" / ".step_000006.part").write_text("in the way")
    with pytest.raises(CheckpointError, match="Earlier checkpoints are kept"):
        save(tmp_path, 6)
    assert newest_checkpoint(tmp_path) == whole


def test_other_models_and_damaged_files_are_refused(tmp_path: Path) -> None:
    folder = save(tmp_path, 5)
    tensors = read_trained(folder)
    other = nn.Sequential(nn.Linear(3, 5))
    with pytest.raises(CheckpointError, match=r"0.weight has shape \[2, 3\], the model's has \[5, 3\]"):
        load_trained(other, {"0.weight": tensors["0.weight"]}, source="x")
    with pytest.raises(CheckpointError, match=r"x: 1\.weight in it is not the model's"):
        load_trained(other, {"1.weight": tensors["0.weight"]}, source="x")
    with pytest.raises(CheckpointError, match="nothing in it is"):
        load_trained(other, {}, source="x")
    model, optimizer = model_and_optimizer()
    model[1].requires_grad_(True)
    with pytest.raises(CheckpointError, match=r"other parts train here, such as 1\.bias"):
        restore_checkpoint(folder, model, optimizer)
    (folder / "state.json").write_text("{")
    with pytest.raises(CheckpointError, match="is not a whole checkpoint"):
        restore_checkpoint(folder, *model_and_optimizer())
    (folder / "trained.safetensors").write_bytes(b"x")
    with pytest.raises(CheckpointError, match="cannot be read"):
        read_trained(folder)
    with pytest.raises(CheckpointError, match="no trained parts there"):
        read_trained(tmp_path / "nowhere")
