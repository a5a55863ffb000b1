from typing import Any

import pytest
import torch
from torch.nn import functional

from video_llama.models.configuration import audio_tower_config
from video_llama.models.imagebind import ImageBindTower


def tower(config: Any, modality: str, **overrides: Any) -> ImageBindTower:
    torch.manual_seed(3)
    settings = getattr(config(), f"imagebind_{modality}_config")
    for name, value in overrides.items():
        setattr(settings, name, value)
    made = ImageBindTower(settings).eval()
    made.reset_parameters(0.2)
    return made


def test_a_frame_embedding_has_norm_1(config: Any) -> None:
    output = tower(config, "vision")(torch.randn(2, 3, 28, 28))
    assert (output.hidden_ND.shape, output.embedding_NE.shape) == ((2, 16), (2, 12))
    torch.testing.assert_close(output.embedding_NE.norm(dim=-1), torch.ones(2))


@pytest.mark.parametrize(("log_scale", "norm"), [(3.0, 20.0855), (9.0, 100.0)])
def test_an_audio_embeddings_norm_is_the_scale_limited_to_100(config: Any, log_scale: float, norm: float) -> None:
    audio = tower(config, "audio")
    audio.log_logit_scale.fill_(log_scale)
    output = audio(torch.randn(2, 1, 16, 26))
    torch.testing.assert_close(output.embedding_NE.norm(dim=-1), torch.full((2,), norm), rtol=1e-5, atol=0)


def test_a_single_frame_fills_the_depth_of_the_patches(config: Any) -> None:
    """The tower sums the kernel over time; the reference repeats the frame and convolves in three dimensions."""
    vision, frame = tower(config, "vision"), torch.randn(1, 3, 28, 28)
    repeated = frame[:, :, None].expand(-1, -1, 2, -1, -1)
    deep = functional.conv3d(repeated, vision.patch_weight, stride=(2, 14, 14))[:, :, 0]
    flat = functional.conv2d(frame, vision.patch_weight.sum(dim=2), stride=14)
    torch.testing.assert_close(flat, deep, rtol=0, atol=1e-5)  # one addition in another order


def test_the_learned_key_and_value_change_the_output(config: Any) -> None:
    audio, mel = tower(config, "audio"), torch.randn(1, 1, 16, 26)
    before = audio(mel).hidden_ND
    audio.blocks[0].attention.bias_v.data += 1
    assert (audio(mel).hidden_ND - before).abs().max() > 1e-3


def test_another_input_size_is_refused(config: Any) -> None:
    with pytest.raises(ValueError, match=r"expects \(16, 26\), got \(16, 30\)"):
        tower(config, "audio")(torch.zeros(1, 1, 16, 30))


def test_mel_patches_have_no_temporal_dimension() -> None:
    small = audio_tower_config(hidden_size=24, num_hidden_layers=1, num_attention_heads=2)
    assert ImageBindTower(small).patch_weight.shape == (24, 1, 16, 16)
