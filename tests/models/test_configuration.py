from pathlib import Path
from typing import Any

import pytest
from transformers import Blip2VisionConfig

from video_llama.models.configuration import ImageBindTowerConfig, VideoLlamaConfig, audio_tower_config


def test_defaults_are_the_published_7b_model() -> None:
    config = VideoLlamaConfig()
    vision, text = config.vision_config, config.text_config
    assert (vision.hidden_size, vision.num_hidden_layers, vision.intermediate_size) == (1408, 39, 6144)
    assert (vision.image_size, vision.patch_size, vision.layer_norm_eps) == (224, 14, 1e-6)
    assert (config.qformer_config.hidden_size, config.qformer_config.cross_attention_frequency) == (768, 2)
    assert config.video_qformer_config.num_hidden_layers == config.fusion_head_layers == 2
    assert (config.audio_qformer_config.encoder_hidden_size, text.hidden_size) == (1024, 4096)
    # 12 x 19 patches of a mel clip, 16 x 16 patches of a frame
    assert (config.imagebind_audio_config.num_patches, config.imagebind_vision_config.num_patches) == (12 * 19, 256)


@pytest.mark.parametrize(
    "overrides",
    [
        {},
        {"fusion_head_layers": 3, "qformer_config": {"hidden_size": 96, "num_attention_heads": 3}},
        {"imagebind_audio_config": {"pre_norm": True, "bias_kv": False, "temporal_kernel": 2, "num_channels": 3}},
        {"imagebind_audio_config": audio_tower_config(hidden_size=48, embedding_size=20)},
    ],
)
def test_save_and_load_round_trip(overrides: dict[str, Any], tmp_path: Path) -> None:
    config = VideoLlamaConfig(**overrides)
    config.save_pretrained(tmp_path)
    read = VideoLlamaConfig.from_pretrained(tmp_path)
    assert _comparable(read) == _comparable(config)


def _comparable(config: VideoLlamaConfig) -> dict[str, Any]:
    return {name: value for name, value in config.to_dict().items() if name not in ("_name_or_path", "dtype")}


def test_partial_audio_tower_keeps_imagebinds_other_defaults() -> None:
    tower = VideoLlamaConfig(imagebind_audio_config={"hidden_size": 96}).imagebind_audio_config
    assert (tower.hidden_size, tower.input_size, tower.bias_kv, tower.num_channels) == (96, (128, 204), True, 1)


def test_mlp_width_of_a_rounded_ratio() -> None:
    widths = [(11, 30), (768, 3072), (1280, 5120), (13, 15)]
    configs = [ImageBindTowerConfig(hidden_size=width, mlp_ratio=hidden / width) for width, hidden in widths]
    assert [config.intermediate_size for config in configs] == [hidden for _, hidden in widths]


def test_contradicting_numbers_of_fusion_layers_are_refused() -> None:
    with pytest.raises(ValueError, match="Give only one of them, or equal values"):
        VideoLlamaConfig(fusion_head_layers=3, video_qformer_config={"num_hidden_layers": 2})


def test_unknown_fusion_is_refused() -> None:
    with pytest.raises(ValueError, match="only 'seqTransf' is supported"):
        VideoLlamaConfig(fusion_header_type="mean")


@pytest.mark.parametrize("vision", [None, {"hidden_size": 64}, Blip2VisionConfig()])
def test_the_vit_does_not_use_the_class_default_initialisation(vision: Any) -> None:
    assert VideoLlamaConfig(vision_config=vision).vision_config.initializer_range == 0.02


def test_a_given_vit_configuration_is_not_modified() -> None:
    vision = Blip2VisionConfig()
    VideoLlamaConfig(vision_config=vision)
    assert vision.initializer_range == 1e-10
