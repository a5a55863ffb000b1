"""``checkpoint_N.pth`` has the reference's names, its order of AdamW's state, and our weights."""

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.training.conftest import Write
from video_llama.checkpoints.files import opened
from video_llama.checkpoints.keys import convert_state_dict, to_ours
from video_llama.config import load_yaml
from video_llama.errors import ConfigError
from video_llama.models.configuration import VideoLlamaConfig
from video_llama.models.video_llama import VideoLlamaForConditionalGeneration
from video_llama.training.checkpoint import checkpoints, read_trained
from video_llama.training.config import ModelConfig, RunConfig
from video_llama.training.optim import make_optimizer
from video_llama.training.reference_checkpoint import reference_checkpoint
from video_llama.training.run import train_from_config
from video_llama.training.stages import freeze, stage_of

FLAGS = ("freeze_vit", "freeze_qformer", "frozen_llama_proj", "frozen_video_Qformer", "frozen_audio_Qformer")


@pytest.mark.parametrize("recipe", ["visionbranch_stage1_pretrain", "audiobranch_stage2_finetune"])
def test_names_and_order_are_those_of_the_reference(repository: Path, recipe: str) -> None:
    with gzip.open(repository / "tests" / "golden" / "full_keys.json.gz", "rt") as file:
        wanted = json.load(file)["train_configs"][recipe]["llama_7b"]
    with torch.device("meta"):
        model = VideoLlamaForConditionalGeneration(VideoLlamaConfig(text_config={"num_hidden_layers": 1}))
    flags = {key: value for key, value in wanted["model_cfg"].items() if key in FLAGS}
    freeze(model, stage_of(ModelConfig.model_validate(flags)))
    optimizer = make_optimizer(model.named_parameters(), RunConfig(output_dir=Path("run")))
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    ordered = [names[id(parameter)] for group in optimizer.param_groups for parameter in group["params"]]
    state = {**optimizer.state_dict(), "state": {number: {"name": name} for number, name in enumerate(ordered)}}
    tensors = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    content = reference_checkpoint(tensors, state, None, "run: {}", epoch=3)
    assert set(content["model"]) == set(wanted["trainable_keys"])
    expected_order = [*wanted["weight_decay_keys"], *wanted["no_weight_decay_keys"]]
    assert [entry["name"] for entry in content["optimizer"]["state"].values()] == [
        to_ours(key) for key in expected_order
    ]
    decayed, others = (group["params"] for group in content["optimizer"]["param_groups"])
    assert (len(decayed), [*decayed, *others]) == (len(wanted["weight_decay_keys"]), list(range(len(expected_order))))
    assert (content["config"], content["scaler"], content["epoch"]) == ({"run": {}}, None, 3)


@pytest.mark.slow
def test_every_checkpoint_contains_the_file(write_yaml: Write) -> None:
    run = {"save_reference_pth": True, "iters_per_epoch": 2, "max_epoch": 2, "save_every_steps": 1, "keep_last": 2}
    folders = checkpoints(train_from_config(write_yaml(run=run)))
    files = [next(folder.glob("*.pth")) for folder in folders]
    assert [(file.parent.name, file.name) for file in files] == [
        ("step_000003", "checkpoint_1.pth"),
        ("step_000004", "checkpoint_1.pth"),
    ]
    content: dict[str, Any] = torch.load(files[-1], weights_only=True)
    assert list(content) == ["model", "optimizer", "config", "scaler", "epoch"]
    assert content["config"] == load_yaml(folders[-1] / "config.yaml")
    with opened(files[-1]) as tensors:
        ours, ignored, unknown = convert_state_dict(tensors)
    trained = read_trained(folders[-1])
    assert (ours.keys(), ignored, unknown) == (trained.keys(), [], [])
    assert all(torch.equal(ours[name], tensor) for name, tensor in trained.items())


@pytest.mark.slow
def test_the_file_is_optional_and_not_needed_for_resuming(
    write_yaml: Write, losses: Callable[[Path], list[float]]
) -> None:
    folder = train_from_config(write_yaml(), max_steps=3)
    assert not list(folder.rglob("*.pth"))
    again = train_from_config(write_yaml(), ["run.save_reference_pth=true"], resume="auto", max_steps=6)
    [written] = again.rglob("*.pth")
    assert written.parent.name == "step_000006"
    assert len(losses(again)) == 6


@pytest.mark.parametrize("key", ["model.lora={r: 2}", "model.freeze_llama=false", "model.freeze_vit=false"])
def test_parts_that_the_reference_does_not_train_are_errors(write_yaml: Write, key: str) -> None:
    with pytest.raises(ConfigError, match=r"save_reference_pth: the reference's format has no .* --to-reference"):
        train_from_config(write_yaml(), ["run.save_reference_pth=true", key])
