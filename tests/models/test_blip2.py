from typing import Any

import pytest
import torch

from video_llama.models.blip2 import FrameEncoder


def test_each_frame_is_encoded_to_its_query_tokens(config: Any) -> None:
    torch.manual_seed(0)
    encoder = FrameEncoder(config()).eval()
    frames = torch.randn(4, 3, 28, 28)
    tokens = encoder(frames)
    assert tokens.shape == (4, 3, 24)
    torch.testing.assert_close(encoder(frames[1:2]), tokens[1:2], rtol=0, atol=1e-5)  # float32 rounding


def test_another_image_size_is_refused(config: Any) -> None:
    with pytest.raises(ValueError, match="expects 28x28 pixels, got 14x42"):
        FrameEncoder(config())(torch.zeros(1, 3, 14, 42))


def test_the_final_norm_has_its_own_eps(config: Any) -> None:
    encoder = FrameEncoder(config(vision_post_norm_eps=3e-4))
    assert encoder.vision_model.post_layernorm.eps == 3e-4
    assert encoder.vision_model.encoder.layers[0].layer_norm1.eps == 1e-6


def test_num_query_tokens(config: Any) -> None:
    assert FrameEncoder(config(num_query_tokens=7)).eval()(torch.zeros(1, 3, 28, 28)).shape == (1, 7, 24)
