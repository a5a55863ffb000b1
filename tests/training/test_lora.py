"""LoRA adapters are saved, resumed and merged, also with a quantized decoder; training of the whole decoder."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.training.conftest import moved_by
from video_llama.checkpoints.folder import read_model_folder
from video_llama.errors import CheckpointError, ConfigError
from video_llama.models.modeling_llama import is_packed
from video_llama.models.packed_linear import Quantization
from video_llama.models.placement import LoadOptions
from video_llama.models.video_llama import VideoLlamaForConditionalGeneration
from video_llama.training.checkpoint import load_trained, newest_checkpoint, read_trained
from video_llama.training.lora import add_lora, lora_of_checkpoint, split_lora
from video_llama.training.merge import merge_into_folder
from video_llama.training.run import train_from_config

Losses = Callable[[Path], list[float]]
Gain = Callable[..., float]
Write = Callable[..., Path]
QLORA = {"r": 4, "alpha": 8, "targets": ["q_proj", "v_proj", "down_proj"]}
LORA = {"r": 4, "alpha": 8, "dropout": 0.1, "targets": ["q_proj", "v_proj", "down_proj"]}
NO_QFORMER = {"frozen_llama_proj": True, "frozen_video_Qformer": True}


@torch.no_grad()
def logits(model: VideoLlamaForConditionalGeneration) -> Tensor:
    ids = torch.arange(3, 23)[None]
    return model.eval()(input_ids=ids).logits


def test_adapters_are_saved_resumed_and_merged(write_yaml: Write, losses: Losses, base: Path, tmp_path: Path) -> None:
    whole = train_from_config(write_yaml(name="whole", model={"lora": LORA}))
    cut = write_yaml(name="cut", model={"lora": LORA})
    train_from_config(cut, max_steps=5)
    assert losses(train_from_config(cut, resume="auto")) == losses(whole)

    adapters, others = split_lora(read_trained(whole))
    assert len(adapters) == 2 * 2 * 3  # two matrices, two layers, three targets
    assert all(name.startswith("model.video_qformer.") for name in others)
    adapted = read_model_folder(base).model
    before = logits(adapted)
    load_trained(adapted, others, source="others")
    add_lora(adapted, lora_of_checkpoint(newest_checkpoint(whole)), seed=0)  # type: ignore[arg-type]
    assert torch.equal(logits(adapted), before)  # new adapters do not change the output
    load_trained(adapted, adapters, source="adapters")
    assert not torch.allclose(logits(adapted), before)

    merged = read_model_folder(merge_into_folder([whole], base, tmp_path / "merged")).model
    assert merged.state_dict().keys() == read_model_folder(base).model.state_dict().keys()
    # W x + B A x and (W + B A) x differ in the order of summation.
    torch.testing.assert_close(logits(merged), logits(adapted), rtol=1e-5, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("quantization", ["int8", "int4"])
def test_adapters_on_a_quantized_decoder(
    write_yaml: Write, losses: Losses, gain: Gain, packable: Path, tmp_path: Path, quantization: Quantization
) -> None:
    model = {**NO_QFORMER, "pretrained": str(packable), "lora": QLORA, "quantization": quantization}
    branch = ["datasets.webvid_instruct.branch=vision"]
    path = write_yaml(name="whole", model=model, run={"batch_size_train": 12})
    whole = train_from_config(path, branch)
    assert gain(path, branch) > 0
    cut = write_yaml(name="cut", model=model, run={"batch_size_train": 12})
    train_from_config(cut, branch, max_steps=5)
    assert losses(train_from_config(cut, branch, resume="auto")) == losses(whole)
    trained = read_trained(whole)
    assert all(".lora_" in name and tensor.dtype is torch.float32 for name, tensor in trained.items())

    def with_adapters(**placing: object) -> VideoLlamaForConditionalGeneration:
        adapted = read_model_folder(packable, LoadOptions(**placing)).model  # type: ignore[arg-type]
        add_lora(adapted, lora_of_checkpoint(newest_checkpoint(whole)), seed=0)  # type: ignore[arg-type]
        load_trained(adapted, trained, source="adapters")
        return adapted

    on_packed, on_exact = with_adapters(quantization=quantization), with_adapters()
    assert is_packed(on_packed)
    assert torch.equal(logits(on_packed), logits(with_adapters(quantization=quantization)))
    exact = read_model_folder(merge_into_folder([whole], packable, tmp_path / "exact")).model
    rounded = merge_into_folder([whole], packable, tmp_path / "rounded", quantization=quantization)
    as_trained = read_model_folder(rounded).model
    # W x + B A x and (W + B A) x differ in the order of summation.
    torch.testing.assert_close(logits(exact), logits(on_exact), rtol=1e-5, atol=1e-5)
    # Without gradients the packed kernels round their inputs, by far less than the weights were rounded.
    rounding, quantization_error = (logits(each) - logits(on_packed) for each in (as_trained, exact))
    assert 0 < rounding.norm() < 0.2 * quantization_error.norm()


@pytest.mark.parametrize("dtype", [None, "bf16"])
@pytest.mark.parametrize("quantization", ["int8", "int4"])
def test_a_quantized_decoder_passes_gradients_to_its_inputs(
    write_yaml: Write, packable: Path, quantization: Quantization, dtype: str | None
) -> None:
    model = {"pretrained": str(packable), "quantization": quantization}
    run = write_yaml(model=model, run={"weight_decay": 0, "dtype": dtype})  # only gradients change weights
    moved = moved_by(train_from_config(run, max_steps=2), packable)
    assert {"model.video_qformer.query_tokens", "model.video_qformer.language_projection.weight"} <= moved


def test_training_continues_from_the_adapters_of_another_run(write_yaml: Write, losses: Losses) -> None:
    first = train_from_config(write_yaml(name="first", model={"lora": LORA}), max_steps=6)
    model = {"lora": LORA, "ckpt": str(first)}
    second = train_from_config(write_yaml(name="second", model=model), max_steps=3)
    assert losses(second)[0] < losses(first)[0]
    with pytest.raises(
        ConfigError, match=r"model.lora: .*first has adapters. Set model.lora to their settings, or merge"
    ):
        train_from_config(write_yaml(name="third", model={"ckpt": str(first)}))


def test_only_adapters_or_the_whole_decoder_can_be_trained(write_yaml: Write, gain: Gain) -> None:
    for name, model in (("adapters", {"lora": LORA}), ("decoder", {"freeze_llama": False})):
        datasets_branch = ["datasets.webvid_instruct.branch=vision"]
        path = write_yaml(name=name, model={**NO_QFORMER, **model})
        run = train_from_config(path, datasets_branch)
        assert gain(path, datasets_branch) > 0
        trained = json.loads((run / "trained_parts.json").read_text())["parameters"]
        assert all(each.startswith(("model.language_model.", "lm_head.")) for each in trained)
        assert ("lm_head.weight" in trained) == (name == "decoder")


def test_errors_for_invalid_settings(write_yaml: Write, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"targets: the decoder has no linear layer q_projj. It has .*q_proj"):
        train_from_config(write_yaml(model={"lora": {"targets": ["q_projj"]}}))
    with pytest.raises(ConfigError, match="two ways to train the decoder"):
        train_from_config(write_yaml(model={"lora": LORA, "freeze_llama": False}))
    with pytest.raises(ConfigError, match="a quantized decoder has no trainable weights"):
        train_from_config(write_yaml(model={"quantization": "int8", "freeze_llama": False}))
    with pytest.raises(
        ConfigError, match=r"model.quantization: int4 does not support a layer with 48 inputs .* Use int8"
    ):
        train_from_config(write_yaml(model={"quantization": "int4"}))
    with pytest.raises(ConfigError, match=r"fsdp2 shards parameters, but a quantized decoder has no parameters"):
        train_from_config(write_yaml(model={"quantization": "int8"}, run={"distributed_mode": "fsdp2"}))
    with pytest.raises(CheckpointError, match="has no adapter settings"):
        lora_of_checkpoint(tmp_path)
