"""Add Vicuna's delta to LLaMA."""

import json
from pathlib import Path

import pytest
import torch

from tests.checkpoints.conftest import tensors_of
from tests.factories.published_weights import golden_weights, write_decoder, write_sharded
from video_llama.checkpoints.decoder_folder import read_decoder_folder
from video_llama.checkpoints.delta import apply_delta
from video_llama.errors import CheckpointError


@pytest.fixture
def folders(tmp_path) -> tuple[Path, Path]:
    """LLaMA in .bin shards, and a delta in safetensors shards with one more row for ``[PAD]``."""
    weights = golden_weights()
    write_decoder(tmp_path / "llama-7b", weights, kind="llama-7b", is_bin=True)
    random = {name: torch.randn(tensor.shape) for name, tensor in weights.items() if name.startswith("llama_model.")}
    write_decoder(tmp_path / "vicuna-7b-delta-v0", random, kind="vicuna-7b-delta-v0", pad_row=True)
    return tmp_path / "llama-7b", tmp_path / "vicuna-7b-delta-v0"


def test_the_sum_equals_the_reference_s(tmp_path, folders):
    """float16 + float16; the row that LLaMA lacks is copied from the delta."""
    base, delta = folders
    target = apply_delta(base, delta, tmp_path / "vicuna-7b", max_shard_bytes=8_000)
    total, own, added = (tensors_of(folder) for folder in (target, base, delta))
    assert len(list(target.glob("model-*.safetensors"))) > 2
    assert total.keys() == {name for name in added if not name.endswith("inv_freq")}
    for name, tensor in total.items():
        rows = len(own[name])
        assert torch.equal(tensor[:rows], own[name] + added[name][:rows]), name
        assert torch.equal(tensor[rows:], added[name][rows:]), name
    assert len(total["lm_head.weight"]) == len(own["lm_head.weight"]) + 1
    decoder = read_decoder_folder(target, len(total["lm_head.weight"]), None)
    assert (decoder.model_type, decoder.pad_token) == ("vicuna", "[PAD]")
    assert json.loads((target / "config.json").read_text())["vocab_size"] == len(total["lm_head.weight"])


def test_nothing_is_written_for_another_size(tmp_path, folders):
    base, delta = folders
    tensors = tensors_of(base)
    fewer = {name: tensor for name, tensor in tensors.items() if ".layers.1." not in name}
    write_sharded(base, fewer, is_bin=True)
    with pytest.raises(
        CheckpointError, match=r"differ in \d+ tensor names, such as model\.layers\.1\..*Give a LLaMA of the same size"
    ):
        apply_delta(base, delta, tmp_path / "sum")
    write_sharded(base, tensors | {"model.norm.weight": torch.ones(25)}, is_bin=True)
    with pytest.raises(CheckpointError, match=r"model\.norm\.weight is \[25\] in .*, but \[24\] in"):
        apply_delta(base, delta, tmp_path / "sum")
    assert not (tmp_path / "sum").exists()


def test_nothing_is_written_for_a_delta_without_config(tmp_path, folders):
    base, delta = folders
    (delta / "config.json").unlink()
    with pytest.raises(CheckpointError, match=r"has no config\.json\. Copy the complete folder of the delta"):
        apply_delta(base, delta, tmp_path / "sum")
    assert {path.name for path in tmp_path.iterdir()} == {base.name, delta.name}


def test_an_existing_folder_is_not_overwritten(tmp_path, folders):
    (tmp_path / "sum").mkdir()
    with pytest.raises(CheckpointError, match=r"sum exists\. Choose another name"):
        apply_delta(*folders, tmp_path / "sum")
