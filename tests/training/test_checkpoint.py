"""Checkpoints are complete or absent, limited in number, and refused for other models."""

import json
import os
from pathlib import Path
from typing import Any

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
    with pytest.raises(CheckpointError, match=r"is incomplete|is damaged"):
        restore_checkpoint(folder, *model_and_optimizer())
    (folder / "trained.safetensors").write_bytes(b"x")
    with pytest.raises(CheckpointError, match=r"cannot be read|is damaged"):
        read_trained(folder)
    with pytest.raises(CheckpointError, match="has no trained parameters"):
        read_trained(tmp_path / "nowhere")


@pytest.mark.parametrize("name", ["trained.safetensors", "optimizer.pt", "state.json"])
def test_one_changed_byte_is_an_error_that_names_the_file(tmp_path: Path, name: str) -> None:
    file = save(tmp_path, 5) / name
    whole = file.read_bytes()
    for place in (0, len(whole) // 2, len(whole) - 1):
        file.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        with pytest.raises(CheckpointError, match=rf"{name} is damaged: it differs from its checksum"):
            restore_checkpoint(file.parent, *model_and_optimizer())
    file.write_bytes(whole)
    restore_checkpoint(file.parent, *model_and_optimizer())


def test_checkpoints_without_checksums_are_read(tmp_path: Path) -> None:
    folder = save(tmp_path, 5)
    for file in folder.glob("*.sha256"):
        file.unlink()
    state = json.loads((folder / "state.json").read_text())
    del state["rows"], state["left_out"]
    (folder / "state.json").write_text(json.dumps(state))
    assert restore_checkpoint(folder, *model_and_optimizer()) == TrainingState(5, 1, 8)


@pytest.mark.parametrize("name", ["step_backup", "step_", "step_5_old", "step_000009.bak", "step_-7", "step_\u00b2"])
def test_other_folders_beside_the_checkpoints_are_ignored(tmp_path: Path, name: str) -> None:
    whole = save(tmp_path, 5)
    (tmp_path / "checkpoints" / name).mkdir()
    (tmp_path / "checkpoints" / "step_000099").write_text("a file")
    assert checkpoints(tmp_path) == [whole]
    save(tmp_path, 6, keep_last=1)
    assert (tmp_path / "checkpoints" / name).is_dir()


class RunsCode:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("touch /tmp/never",)


def states(state: dict[str, Any]) -> dict[str, object]:
    """Return damaged variants of an optimizer state."""
    entry, group = state["state"][0], state["param_groups"][0]
    return {
        "code": RunsCode(),
        "a list": [1],
        "no state": {"param_groups": state["param_groups"]},
        "state is a number": {**state, "state": 3},
        "another parameter": {**state, "state": {99: entry}},
        "an entry without keys": {**state, "state": {0: 3}},
        "another shape": {**state, "state": {0: {**entry, "exp_avg": torch.zeros(7)}}},
        "whole numbers": {**state, "state": {0: {**entry, "exp_avg": torch.zeros(2, 3, dtype=torch.int64)}}},
        "text": {**state, "state": {0: {**entry, "exp_avg": "x"}}},
        "no groups": {**state, "param_groups": []},
        "a group is a number": {**state, "param_groups": [3]},
        "a text as a rate": {**state, "param_groups": [{**group, "lr": "x"}]},
        "one beta": {**state, "param_groups": [{**group, "betas": (0.9,)}]},
        "infinite decay": {**state, "param_groups": [{**group, "weight_decay": float("inf")}]},
        "fewer parameters": {**state, "param_groups": [{**group, "params": [0]}]},
    }


@pytest.mark.parametrize("name", list(states(model_and_optimizer()[1].state_dict())))
def test_a_hostile_optimizer_state_is_one_line(tmp_path: Path, name: str) -> None:
    folder = save(tmp_path, 5)
    (folder / "optimizer.pt.sha256").unlink()
    torch.save(states(model_and_optimizer()[1].state_dict())[name], folder / "optimizer.pt")
    with pytest.raises(CheckpointError) as caught:
        restore_checkpoint(folder, *model_and_optimizer())
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("size", [0, 10, 700])
def test_a_truncated_optimizer_state_is_one_line(tmp_path: Path, size: int) -> None:
    folder = save(tmp_path, 5)
    (folder / "optimizer.pt.sha256").unlink()
    (folder / "optimizer.pt").write_bytes((folder / "optimizer.pt").read_bytes()[:size])
    with pytest.raises(CheckpointError, match=r"optimizer\.pt") as caught:
        restore_checkpoint(folder, *model_and_optimizer())
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        "[" * 100_000,
        "3",
        "{}",
        '{"step": "5", "world_size": 1, "batch_size": 8}',
        '{"step": -5, "world_size": 1, "batch_size": 8}',
        '{"step": 5, "world_size": 0, "batch_size": 8}',
        '{"step": 5, "world_size": 1, "batch_size": 8, "left_out": {}}',
    ],
)
def test_a_hostile_training_state_is_one_line(tmp_path: Path, text: str) -> None:
    folder = save(tmp_path, 5)
    (folder / "state.json.sha256").unlink()
    (folder / "state.json").write_text(text)
    with pytest.raises(CheckpointError, match=r"is incomplete") as caught:
        restore_checkpoint(folder, *model_and_optimizer())
    assert "\n" not in str(caught.value)
