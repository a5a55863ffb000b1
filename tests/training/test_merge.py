"""Merging runs into a model folder: dtypes, several runs, and the errors."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from video_llama.checkpoints.folder import read_model_folder
from video_llama.errors import CheckpointError
from video_llama.training.merge import merge_into_folder
from video_llama.training.run import train_from_config

Write = Callable[..., Path]
LORA = {"r": 4, "alpha": 8, "targets": ["q_proj", "v_proj", "down_proj"]}


def write_run(folder: Path, *names: str, base: Path) -> Path:
    """Write a run folder with one checkpoint, in which the tensors of these names are zero."""
    tensors = read_model_folder(base).model.state_dict()
    checkpoint = folder / "checkpoints" / "step_000001"
    checkpoint.mkdir(parents=True)
    save_file({name: torch.zeros_like(tensors[name]) for name in names}, checkpoint / "trained.safetensors")
    return folder


@pytest.mark.slow
@pytest.mark.slow
def test_a_half_precision_folder_stays_one(write_yaml: Write, packable: Path, tmp_path: Path) -> None:
    half = tmp_path / "half"
    shutil.copytree(packable, half)
    config = json.loads((half / "config.json").read_text())
    (half / "config.json").write_text(json.dumps({**config, "dtype": "float16"}))
    tensors = {name: tensor.half() for name, tensor in load_file(half / "model.safetensors").items()}
    save_file(tensors, half / "model.safetensors", {"format": "pt"})
    run = train_from_config(write_yaml(model={"pretrained": str(half), "lora": LORA}), max_steps=2)
    merged = load_file(merge_into_folder([run], half, tmp_path / "merged") / "model.safetensors")
    decoder = {tensor.dtype for name, tensor in merged.items() if name.startswith("model.language_model.")}
    assert decoder == {torch.float16}


def test_two_runs_are_merged_and_the_base_is_unchanged(base: Path, tmp_path: Path) -> None:
    video, audio = (
        write_run(tmp_path / kind, f"model.{kind}_qformer.query_tokens", base=base) for kind in ("video", "audio")
    )
    before = load_file(base / "model.safetensors")
    folder = read_model_folder(merge_into_folder([video, audio], base, tmp_path / "out", name="mine", notice="a test"))
    for name, tensor in folder.model.state_dict().items():
        is_trained = name.endswith("_qformer.query_tokens")
        assert torch.equal(tensor, torch.zeros_like(tensor) if is_trained else before[name])
    assert (folder.manifest.name, folder.manifest.notice) == ("mine", "a test")
    assert folder.manifest.untrained_parts == ("model.video_qformer.", "model.audio_qformer.")  # only partly trained
    after = load_file(base / "model.safetensors")
    assert all(torch.equal(tensor, before[name]) for name, tensor in after.items())


def test_errors_name_the_remedy_and_write_nothing(base: Path, tmp_path: Path) -> None:
    out, queries = tmp_path / "out", "model.video_qformer.query_tokens"
    run = write_run(tmp_path / "run", queries, base=base)
    again = write_run(tmp_path / "again", queries, base=base)
    (tmp_path / "empty").mkdir()
    for runs, folder, message in (
        ([], base, "No run was given"),
        ([tmp_path / "empty"], base, "empty has no trained parameters"),
        ([tmp_path / "absent"], base, "absent has no trained parameters"),
        ([run, again], base, r"run and .*again both contain 1 of the same tensors.*query_tokens.*Merge only one"),
        ([run], tmp_path / "empty", r"empty has no config.json, so it is not a complete model folder"),
        ([run], tmp_path / "absent", "absent is not a folder"),
    ):
        with pytest.raises(CheckpointError, match=message):
            merge_into_folder(runs, folder, out)
        assert not out.exists()
    for existing in (base, run):
        with pytest.raises(CheckpointError, match=r"already exists\. Choose another output folder"):
            merge_into_folder([run], base, existing)


def test_a_run_of_another_model_is_refused(base: Path, tmp_path: Path) -> None:
    save_file({"model.other.weight": torch.zeros(2)}, tmp_path / "other.safetensors")
    with pytest.raises(CheckpointError, match=r"other\.safetensors: model\.other\.weight"):
        merge_into_folder([tmp_path / "other.safetensors"], base, tmp_path / "out")
