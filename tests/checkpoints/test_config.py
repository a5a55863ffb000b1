"""The evaluation YAML: number and size of frames, prompt style, and the section shared with training YAMLs."""

import pytest

from video_llama.checkpoints.config import EvalConfig, ModelSection, ModelYaml
from video_llama.config import parse_config
from video_llama.errors import ConfigError
from video_llama.training.config import ModelConfig, TrainConfig


def frames(**settings: int) -> dict[str, object]:
    return {"webvid": {"vis_processor": {"train": settings}}}


def test_frames_are_those_of_the_first_data_set() -> None:
    config = EvalConfig.model_validate({"model": {}, "datasets": {**frames(n_frms=4, image_size=28), "other": {}}})
    assert (config.num_frames, config.image_size) == (4, 28)
    empty = EvalConfig.model_validate({"model": {}})
    assert (empty.num_frames, empty.image_size) == (8, None)
    own = EvalConfig.model_validate({"model": {"image_size": 112}, "datasets": frames(image_size=28)})
    assert own.image_size == 112


@pytest.mark.parametrize(("value", "wanted"), [("pretrain_vicuna", "vicuna"), ("llama_v2", "llama_v2"), (None, None)])
def test_the_prompt_style_has_no_prefix(value: str | None, wanted: str | None) -> None:
    assert EvalConfig.model_validate({"model": {"model_type": value}}).model_type == wanted


def test_training_yamls_share_the_model_section() -> None:
    assert issubclass(TrainConfig, ModelYaml)
    assert ModelSection.model_fields.keys() < ModelConfig.model_fields.keys()
    config = parse_config(
        TrainConfig, {"model": {}, "datasets": frames(n_frms=4), "run": {"output_dir": "x"}}, source="x"
    )
    assert config.num_frames == 4


def test_the_error_for_an_unknown_key_suggests_a_similar_one() -> None:
    with pytest.raises(ConfigError, match=r"x.yaml: model.lama_model: unknown key. Did you mean llama_model\?"):
        parse_config(EvalConfig, {"model": {"lama_model": "x"}}, source="x.yaml")
