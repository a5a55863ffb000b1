"""The flags of the published recipes train the same parameters as in the reference (golden full_keys.json)."""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from video_llama.checkpoints.keys import to_reference
from video_llama.datasets.config import DatasetConfig
from video_llama.errors import ConfigError
from video_llama.models.configuration import VideoLlamaConfig
from video_llama.models.video_llama import VideoLlamaForConditionalGeneration
from video_llama.training.config import ModelConfig
from video_llama.training.optim import is_decayed
from video_llama.training.stages import freeze, stage_of

RECIPES = (
    "visionbranch_stage1_pretrain",
    "visionbranch_stage2_finetune",
    "audiobranch_stage1_pretrain",
    "audiobranch_stage2_finetune",
)
FLAGS = ("freeze_vit", "freeze_qformer", "frozen_llama_proj", "frozen_video_Qformer", "frozen_audio_Qformer")


@pytest.fixture(scope="module")
def recipes(repository: Path) -> dict[str, Any]:
    with gzip.open(repository / "tests" / "golden" / "full_keys.json.gz", "rt") as file:
        content: dict[str, Any] = json.load(file)
    return content["train_configs"]


@pytest.fixture(scope="module")
def model() -> VideoLlamaForConditionalGeneration:
    """The 7B model on the meta device, with only two decoder layers."""
    with torch.device("meta"):
        return VideoLlamaForConditionalGeneration(VideoLlamaConfig(text_config={"num_hidden_layers": 2}))


@pytest.mark.parametrize("recipe", RECIPES)
def test_the_published_flags_train_the_same_parameters(
    recipes: dict[str, Any], model: VideoLlamaForConditionalGeneration, recipe: str
) -> None:
    wanted = recipes[recipe]["llama_7b"]
    flags = {key: value for key, value in wanted["model_cfg"].items() if key in FLAGS}
    trained = freeze(model, stage_of(ModelConfig.model_validate(flags)))
    assert {to_reference(name) for name in trained} == set(wanted["trainable_keys"])
    assert (
        sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
        == (wanted["n_trainable_params"])
    )
    decayed = {to_reference(name) for name, shape in trained.items() if is_decayed(name, len(shape))}
    assert decayed == set(wanted["weight_decay_keys"])
    for name, shape in trained.items():
        assert list(shape) == wanted["trainable_keys"][to_reference(name)][0]


def test_the_frame_encoder_is_trained_if_it_is_not_frozen(model: VideoLlamaForConditionalGeneration) -> None:
    stage = stage_of(ModelConfig(freeze_qformer=False))
    trained = freeze(model, stage)
    assert "model.frame_encoder.query_tokens" in trained
    assert not any(".vision_model." in name for name in trained)
    assert not stage.encoders_are_frozen
    assert stage_of(ModelConfig(frozen_audio_Qformer=False)).encoders_are_frozen


def test_training_a_missing_branch_is_an_error() -> None:
    with torch.device("meta"):
        config = VideoLlamaConfig(text_config={"num_hidden_layers": 1}, with_audio_branch=False)
        model = VideoLlamaForConditionalGeneration(config)
    with pytest.raises(ConfigError, match=r"no model.audio_qformer. to train"):
        freeze(model, stage_of(ModelConfig(frozen_audio_Qformer=False)))


def test_data_sets_need_a_branch_if_both_are_trained() -> None:
    stage = stage_of(ModelConfig(frozen_audio_Qformer=False, frozen_video_Qformer=False))
    assert stage.branches == ("vision", "audio")
    assert stage.branch_of(DatasetConfig(branch="audio"), "datasets.x") == "audio"
    with pytest.raises(ConfigError, match=r"datasets.x.branch: both branches are trained. Set the branch"):
        stage.branch_of(DatasetConfig(), "datasets.x")


def test_the_parts_that_a_stage_reads() -> None:
    vision, audio = stage_of(ModelConfig(frozen_video_Qformer=False)), stage_of(ModelConfig(frozen_audio_Qformer=False))
    for part, by_vision, by_audio in (
        ("model.frame_encoder.", True, False),
        ("model.language_model.", True, True),
        ("model.audio_qformer.", False, True),
        ("model.imagebind_vision.", False, True),
        ("model.imagebind_audio.", False, False),
    ):
        assert (vision.reads(part), audio.reads(part)) == (by_vision, by_audio)
