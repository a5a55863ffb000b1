"""A model of a few thousand parameters with every part: it is made and run on a CPU in well under a second."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from video_llama.models.configuration import VideoLlamaConfig
from video_llama.models.video_llama import VideoLlamaForConditionalGeneration

VOCABULARY = 60
VIDEO, AUDIO = VOCABULARY, VOCABULARY + 1  # as in the real model: no rows of the embedding
QFORMER = {"hidden_size": 24, "num_attention_heads": 3, "intermediate_size": 40, "initializer_range": 0.3}
TOWER = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "embedding_size": 12}


def make_config(**overrides: Any) -> VideoLlamaConfig:
    """All dimensions differ from each other, so that a mistaken one cannot pass."""
    defaults: dict[str, Any] = dict(
        vision_config={
            "hidden_size": 20,
            "intermediate_size": 36,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "image_size": 28,
            "patch_size": 14,
        },
        qformer_config={**QFORMER, "num_hidden_layers": 2},
        imagebind_vision_config={**TOWER, "input_size": (28, 28)},
        imagebind_audio_config={
            **TOWER,
            "hidden_size": 24,
            "input_size": (16, 26),
            "kernel_size": (8, 8),
            "stride": (4, 6),
        },
        text_config={
            "vocab_size": VOCABULARY,
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 4,
            "max_position_embeddings": 256,
            "initializer_range": 0.3,  # answers that depend on what was asked
            "pad_token_id": 0,
        },
        num_query_tokens=3,
        num_video_query_tokens=5,
        num_audio_query_tokens=2,
        max_frame_pos=6,
        max_audio_pos=4,
        with_imagebind_vision=True,
        video_token_id=VIDEO,
        audio_token_id=AUDIO,
    )
    return VideoLlamaConfig(**{**defaults, **overrides})


def make_model(**overrides: Any) -> VideoLlamaForConditionalGeneration:
    """The same weights at each call."""
    torch.manual_seed(5)
    return VideoLlamaForConditionalGeneration(make_config(initializer_range=0.2, **overrides)).eval()


@pytest.fixture(scope="session")
def make() -> Any:
    """``make_model``, for tests that want their own."""
    return make_model


@pytest.fixture(scope="session")
def config() -> Any:
    return make_config


@pytest.fixture
def model() -> VideoLlamaForConditionalGeneration:
    return make_model()


@pytest.fixture
def frames() -> Any:
    def draw(*lengths: int) -> list[Tensor]:
        """One video [T, 3, 28, 28] per length."""
        generator = torch.Generator().manual_seed(11)
        return [torch.randn(length, 3, 28, 28, generator=generator) for length in lengths]

    return draw


@pytest.fixture
def mels() -> Any:
    def draw(*lengths: int) -> list[Tensor]:
        """One sound [S, 1, 16, 26] per length."""
        generator = torch.Generator().manual_seed(12)
        return [torch.randn(length, 1, 16, 26, generator=generator) for length in lengths]

    return draw
