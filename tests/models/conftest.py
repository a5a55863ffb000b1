"""A model of a few thousand parameters with every part, which is built and runs on a CPU in well under a second."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from tests.factories.models import tiny_config
from video_llama.models.configuration import VideoLlamaConfig
from video_llama.models.video_llama import VideoLlamaForConditionalGeneration

VOCABULARY = 60
VIDEO, AUDIO = VOCABULARY, VOCABULARY + 1  # as in the published model, placeholder ids have no row in the embedding


def pytest_configure(config: pytest.Config) -> None:
    """Register the marks of transformers' tests, which test_transformers_mixins.py runs if a variable names them."""
    marks = ("accelerate_tests", "flash_attn_test", "flash_attn_3_test", "flash_attn_4_test", "torch_compile_test")
    for mark in (*marks, "generate", "is_training_test", "torch_export_test"):
        config.addinivalue_line("markers", f"{mark}: of transformers")


def make_config(**overrides: Any) -> VideoLlamaConfig:
    """`tiny_config` with two ViT blocks, both ImageBind towers, and few tokens and positions."""
    defaults: dict[str, Any] = dict(
        vision_config={"num_hidden_layers": 2},
        num_query_tokens=3,
        num_audio_query_tokens=2,
        max_frame_pos=6,
        max_audio_pos=4,
        with_imagebind_vision=True,
    )
    return tiny_config(VOCABULARY, **{**defaults, **overrides})


def make_model(**overrides: Any) -> VideoLlamaForConditionalGeneration:
    """Return a model with the same weights at each call."""
    torch.manual_seed(5)
    return VideoLlamaForConditionalGeneration(make_config(**overrides)).eval()


@pytest.fixture(scope="session")
def make() -> Any:
    """``make_model``, for tests with their own configuration."""
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
        """Return one video [T, 3, 28, 28] per length."""
        generator = torch.Generator().manual_seed(11)
        return [torch.randn(length, 3, 28, 28, generator=generator) for length in lengths]

    return draw


@pytest.fixture
def mels() -> Any:
    def draw(*lengths: int) -> list[Tensor]:
        """Return the mel clips of one sound [S, 1, 16, 26] per length."""
        generator = torch.Generator().manual_seed(12)
        return [torch.randn(length, 1, 16, 26, generator=generator) for length in lengths]

    return draw
