"""Map names between the reference's checkpoints and ours."""

import gzip
import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from video_llama.checkpoints.keys import IGNORED, convert_state_dict, revert_state_dict, to_ours, to_reference
from video_llama.models.configuration import VideoLlamaConfig
from video_llama.models.video_llama import VideoLlamaForConditionalGeneration

RECIPES = {
    "visionbranch_stage1_pretrain": "model.video_qformer.",
    "visionbranch_stage2_finetune": "model.video_qformer.",
    "audiobranch_stage1_pretrain": "model.audio_qformer.",
    "audiobranch_stage2_finetune": "model.audio_qformer.",
}
SIZES = ["llama_7b", "llama_13b"]


@pytest.fixture(scope="module")
def full(repository: Path) -> dict[str, Any]:
    """Every key, shape and type of the reference at real size (golden's full_keys.json)."""
    packed = (repository / "tests" / "golden" / "full_keys.json.gz").read_bytes()
    content: dict[str, Any] = json.loads(gzip.decompress(packed))
    return content


@pytest.fixture(scope="module")
def weights(repository: Path) -> dict[str, Tensor]:
    return load_file(repository / "tests" / "golden" / "dev" / "weights.safetensors")


def on_meta(keys: dict[str, Any]) -> dict[str, Tensor]:
    return {name: torch.empty(shape, device="meta") for name, (shape, _, _) in keys.items()}


@pytest.mark.parametrize("size", SIZES)
def test_every_published_name_is_one_of_ours_with_the_same_shape(full: dict[str, Any], size: str) -> None:
    reference = full["models"][size]
    with torch.device("meta"):
        config = VideoLlamaConfig(text_config=reference["llama_config"], with_imagebind_vision=True)
        model = VideoLlamaForConditionalGeneration(config)
    ours, ignored, unknown = convert_state_dict(on_meta(reference["keys"]))
    assert unknown == []
    expected = {name: tensor.shape for name, tensor in model.state_dict().items()}
    assert {name: tensor.shape for name, tensor in ours.items()} == expected
    unused = re.compile(r"position_ids|inv_freq|\.(text|depth|thermal|imu)\.")
    assert [name for name in ignored if not unused.search(name)] == []


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(("recipe", "branch"), RECIPES.items())
def test_each_recipe_saves_one_branch(full: dict[str, Any], size: str, recipe: str, branch: str) -> None:
    trained = full["train_configs"][recipe][size]
    names = {to_ours(name) for name in trained["trainable_keys"]}
    assert len(names) == trained["n_trainable_tensors"]
    assert all(name is not None and name.startswith(branch) for name in names)
    assert {to_reference(str(name)) for name in names} == set(trained["trainable_keys"])
    keys = full["models"][size]["keys"]
    saved = on_meta({name: keys[name] for name in trained["saved_keys"]})
    ours, _, unknown = convert_state_dict(saved, include=lambda name: name.startswith(branch))
    assert (ours.keys(), unknown) == (names, [])


def test_golden_s_weights_map_to_ours_and_back_exactly(weights: dict[str, Tensor]) -> None:
    ours, ignored, unknown = convert_state_dict(weights)
    assert unknown == []
    back = revert_state_dict(ours)
    assert back.keys() == weights.keys() - set(ignored)
    for name, tensor in back.items():
        assert tensor.dtype == weights[name].dtype, name
        assert torch.equal(tensor, weights[name]), name
    again, _, _ = convert_state_dict(back)
    assert all(torch.equal(again[name], tensor) for name, tensor in ours.items())


def test_the_vit_s_key_bias_is_zero(weights: dict[str, Tensor]) -> None:
    ours, _, _ = convert_state_dict(weights)
    query, key, value = ours["model.frame_encoder.vision_model.encoder.layers.1.self_attn.qkv.bias"].chunk(3)
    assert torch.equal(query, weights["visual_encoder.blocks.1.attn.q_bias"])
    assert torch.equal(value, weights["visual_encoder.blocks.1.attn.v_bias"])
    assert not key.any()


def test_half_a_bias_is_unknown() -> None:
    ours, _, unknown = convert_state_dict({"visual_encoder.blocks.3.attn.v_bias": torch.ones(2)})
    assert (ours, unknown) == ({}, ["visual_encoder.blocks.3.attn.v_bias"])


def test_unknown_names_are_reported() -> None:
    ours, ignored, unknown = convert_state_dict({"head.weight": torch.ones(2), "video_query_tokens": torch.ones(1)})
    assert (list(ours), ignored, unknown) == (["model.video_qformer.query_tokens"], [], ["head.weight"])


def test_tensors_that_are_not_included_are_ignored() -> None:
    both = {"llama_proj.bias": torch.ones(2), "audio_llama_proj.bias": torch.ones(3)}
    ours, ignored, _ = convert_state_dict(both, include=lambda name: name.startswith("model.video_qformer."))
    assert (list(ours), ignored) == (["model.video_qformer.language_projection.bias"], ["audio_llama_proj.bias"])


def test_names_without_counterpart_in_the_reference() -> None:
    with pytest.raises(ValueError, match=r"lora_A\.weight has no counterpart in the reference.*Merge adapters"):
        revert_state_dict({"model.language_model.lora_A.weight": torch.ones(1), "adapter.lora_A.weight": torch.ones(1)})


@pytest.mark.parametrize("name", ["audio_encoder.modality_trunks.imu.blocks.0.norm_1.bias", "a.rotary_emb.inv_freq"])
def test_buffers_and_unused_modalities_are_ignored(name: str) -> None:
    assert IGNORED.match(name)
    assert convert_state_dict({name: torch.ones(1)}) == ({}, [name], [])
