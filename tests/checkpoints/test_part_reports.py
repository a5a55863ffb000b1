"""Reports of the parts of a model folder."""

import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.factories.models import NOTICE
from video_llama.checkpoints.files import scan
from video_llama.checkpoints.part_reports import (
    PART_NAMES,
    PartReport,
    inspect_model,
    part_of,
    part_reports,
    unreadable_values,
)
from video_llama.errors import CheckpointError
from video_llama.files import sha256


def by_part(report) -> dict[str, PartReport]:
    return {part.part: part for part in report.parts}


def test_a_complete_model(model_path):
    report = inspect_model(model_path)
    assert (report.problem, report.name, report.notice) == (None, "tiny", NOTICE)
    assert by_part(report).keys() == set(PART_NAMES.values()) - {"ImageBind vision"}
    stored = scan(model_path)
    assert sum(part.tensors for part in report.parts) == len(stored)
    assert sum(part.bytes for part in report.parts) == sum(tensor.num_bytes for tensor in stored.values())
    hashes = {"model.safetensors": sha256(model_path / "model.safetensors")}
    assert all((part.files, part.dtypes) == (hashes, ["F32"]) for part in report.parts)


def test_errors_are_reported_with_their_part(model_path, tmp_path):
    folder = shutil.copytree(model_path, tmp_path / "copy")
    tensors = load_file(folder / "model.safetensors")
    del tensors["model.video_qformer.query_tokens"]
    tensors["lm_head.weight"][0] = float("nan")
    tensors["model.audio_qformer.language_projection.bias"] = torch.zeros(3)
    tensors["stray.weight"] = torch.zeros(3)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    report = inspect_model(folder)
    parts = by_part(report)
    assert parts["video Q-Former"].missing == ["model.video_qformer.query_tokens"]
    assert parts["decoder"].not_finite == ["lm_head.weight"]
    assert parts["audio projection"].mismatched == ["model.audio_qformer.language_projection.bias"]
    assert parts["stray"].unexpected == parts["stray"].zero == ["stray.weight"]
    assert report.problem is not None
    assert "missing tensors (1)" in report.problem


def test_values_that_are_not_finite(model_path, tmp_path):
    folder = shutil.copytree(model_path, tmp_path / "copy")
    tensors = load_file(folder / "model.safetensors")
    tensors["lm_head.weight"][0] = float("inf")
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    problem = inspect_model(folder).problem
    assert problem == f"{folder}: tensors with NaN or infinity (1): lm_head.weight. Copy the weights again."


def test_a_folder_without_a_config(tmp_path):
    with pytest.raises(CheckpointError, match=r"has no config\.json"):
        inspect_model(tmp_path)


def test_integers_are_counted_and_not_checked(tmp_path):
    save_file({"lm_head.weight": torch.zeros(4, dtype=torch.int8)}, tmp_path / "a.safetensors")
    stored = scan(tmp_path / "a.safetensors")
    (row,) = part_reports({"lm_head.weight": (4,)}, stored, [("lm_head.weight", torch.zeros(4, dtype=torch.int8))])
    assert (row.part, row.tensors, row.parameters, row.bytes, row.dtypes, row.zero) == ("decoder", 1, 4, 4, ["I8"], [])
    assert unreadable_values([row]) is None


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("model.frame_encoder.vision_model.post_layernorm.bias", "ViT"),
        ("model.frame_encoder.query_tokens", "frame Q-Former"),
        ("model.video_qformer.language_projection.bias", "video projection"),
        ("model.language_model.norm.weight", "decoder"),
        ("lm_head.weight", "decoder"),
        ("stray.weight", "stray"),
    ],
)
def test_the_part_of_a_name(name, part):
    assert part_of(name) == part
