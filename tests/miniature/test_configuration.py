"""The miniature's dimensions: the shipped weights have them, and they are small."""

import torch

from video_llama.chat.loading import MINIATURE_PATH
from video_llama.checkpoints.folder import read_settings
from video_llama.miniature.configuration import miniature_config, processor_settings
from video_llama.models.configuration import VideoLlamaConfig
from video_llama.models.video_llama import VideoLlamaForConditionalGeneration


def test_the_model_has_five_and_a_half_million_parameters() -> None:
    with torch.device("meta"):
        model = VideoLlamaForConditionalGeneration(miniature_config())
    assert 5.4e6 < sum(parameter.numel() for parameter in model.parameters()) < 5.6e6


def test_the_shipped_weights_have_this_configuration() -> None:
    shipped = VideoLlamaConfig.from_pretrained(MINIATURE_PATH)
    assert shipped.get_text_config().hidden_size == 192
    ours = miniature_config()
    for name in ("vision_config", "qformer_config", "video_qformer_config", "audio_qformer_config"):
        assert getattr(shipped, name).hidden_size == getattr(ours, name).hidden_size
        assert getattr(shipped, name).num_hidden_layers == getattr(ours, name).num_hidden_layers
    assert shipped.video_token_id == ours.video_token_id


def test_the_shipped_processor_has_these_settings() -> None:
    assert read_settings(MINIATURE_PATH) == processor_settings()
