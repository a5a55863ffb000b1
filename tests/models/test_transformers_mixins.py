"""transformers' own tests of a model class, run on ours. Skipped unless VIDEO_LLAMA_TRANSFORMERS_TESTS names them.

The tests are not part of an installed transformers and not of this repository; its source distribution has them::

    pip download --no-deps --no-binary transformers transformers==5.24.0 && tar xf transformers-5.24.0.tar.gz
    VIDEO_LLAMA_TRANSFORMERS_TESTS=transformers-5.24.0/tests python -m pytest tests/models/test_transformers_mixins.py

``test_modeling_common`` also imports tests of ``generate`` and of exporters that the distribution lacks; empty classes
take their place (tests/models/test_generation.py tests ``generate``). Tests of images run with a batch
of images, all others with a batch of videos and sounds.
"""

from __future__ import annotations

import functools
import importlib
import os
import sys
import types
import unittest
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.factories.models import tiny_config
from video_llama.models.configuration import VideoLlamaConfig
from video_llama.models.video_llama import VideoLlamaForConditionalGeneration, VideoLlamaModel

FOLDER = os.environ.get("VIDEO_LLAMA_TRANSFORMERS_TESTS", "")
if not FOLDER:
    pytest.skip("VIDEO_LLAMA_TRANSFORMERS_TESTS is not set", allow_module_level=True)

PACKAGE = "transformers_tests"
NO_IMAGES = "the batch of this tester has videos; VideoLlamaImageTest runs the tests of images"


def _package(name: str, path: list[str] | None = None, **contents: Any) -> None:
    module = types.ModuleType(name)
    module.__path__ = path or []
    vars(module).update(contents)
    sys.modules[name] = module


@functools.cache
def upstream(name: str) -> Any:
    """Return a module of transformers' tests."""
    folder = Path(FOLDER) / "tests" if (Path(FOLDER) / "tests").is_dir() else Path(FOLDER)
    if PACKAGE not in sys.modules:
        _package(PACKAGE, [str(folder)])
        for absent in ("exporters", "generation", "utils"):
            _package(f"{PACKAGE}.{absent}")
        _package(f"{PACKAGE}.exporters.test_export", ExportTesterMixin=type("ExportTesterMixin", (), {}))
        _package(f"{PACKAGE}.generation.test_utils", GenerationTesterMixin=type("GenerationTesterMixin", (), {}))
        _package(f"{PACKAGE}.utils.test_configuration_utils", config_common_kwargs={})
    module = importlib.import_module(f"{PACKAGE}.{name}")
    if name == "test_modeling_common":  # which class has a head, and which is an image-text-to-text model
        bodies, heads = "MODEL_MAPPING_NAMES", "MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES"
        setattr(module, bodies, {**getattr(module, bodies), "video_llama": VideoLlamaModel.__name__})
        head = VideoLlamaForConditionalGeneration.__name__
        setattr(module, heads, {**getattr(module, heads), "video_llama": head})
    return module


def config_tester() -> Any:
    """Return ConfigTester; its module reads transformers' sources only for tests of transformers' own classes."""
    import transformers.utils

    original = transformers.utils.direct_transformers_import
    transformers.utils.direct_transformers_import = lambda *args, **kwargs: importlib.import_module("transformers")
    try:
        return upstream("test_configuration_common").ConfigTester
    finally:
        transformers.utils.direct_transformers_import = original


class VideoLlamaModelTester:
    """A tiny model, and a batch in which each row has a video, a sound and text."""

    batch_size, num_frames, num_clips, vocab_size = 3, 2, 2, 99
    num_hidden_layers = expected_layers = 2
    num_attention_heads, hidden_size, is_training = 4, 32, True
    pad_token_id = 0

    def __init__(self, parent: Any, has_images: bool) -> None:
        self.parent, self.has_images = parent, has_images
        self.text_config = self.get_config().text_config.to_dict()
        self.vision_config = self.get_config().vision_config.to_dict()
        self.audio_config = self.get_config().imagebind_audio_config.to_dict()
        self.seq_length = self.prepare_config_and_inputs_for_common()[1]["input_ids"].shape[1]

    def get_config(self) -> VideoLlamaConfig:
        return tiny_config(
            self.vocab_size,
            video_token_id=21,
            audio_token_id=22,
            vision_config={"num_hidden_layers": 2, "initializer_range": 0.02},
            qformer_config={
                "initializer_range": 0.02,
                "hidden_dropout_prob": 0.0,
                "attention_probs_dropout_prob": 0.0,
            },
            text_config={"initializer_range": 0.02, "bos_token_id": 1, "eos_token_id": 2},
            initializer_range=0.02,
        )

    def prepare_config_and_inputs_for_common(self) -> tuple[VideoLlamaConfig, dict[str, Any]]:
        config = self.get_config()
        places = [config.video_token_id] * config.num_video_query_tokens
        if not self.has_images:
            places += [config.audio_token_id] * config.num_audio_query_tokens
        words = torch.randint(23, self.vocab_size, (self.batch_size, 7))
        ids = torch.cat([words[:, :1], torch.tensor([places] * self.batch_size), words[:, 1:]], dim=1)
        text = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        if self.has_images:
            return config, {**text, "pixel_values": torch.randn(self.batch_size, 3, 28, 28)}
        return config, {
            **text,
            "pixel_values_videos": torch.randn(self.batch_size, self.num_frames, 3, 28, 28),
            "input_features": torch.randn(self.batch_size, self.num_clips, 1, 16, 26),
        }


@functools.cache
def _mixins() -> tuple[type, ...]:
    common = upstream("test_modeling_common")
    training = upstream("test_training_mixin")
    return common.ModelTesterMixin, common.GenerationTesterMixin, training.TrainingTesterMixin


class VideoLlamaModelTest(*_mixins(), unittest.TestCase):  # type: ignore[misc]
    all_model_classes = (VideoLlamaModel, VideoLlamaForConditionalGeneration)
    _is_composite = True
    model_tester: Any = None
    has_images = False

    def setUp(self) -> None:
        if self._testMethodName.startswith("test_get_image_features") and not self.has_images:
            self.skipTest(NO_IMAGES)
        self.model_tester = VideoLlamaModelTester(self, self.has_images)
        self.model_tester.causal_lm_class = VideoLlamaForConditionalGeneration
        self.config_tester = config_tester()(self, config_class=VideoLlamaConfig)

    def test_config(self) -> None:
        self.config_tester.run_common_tests()

    @unittest.skip("outputs have no image_outputs (transformers 5.24): get_image_features returns them")
    def test_multimodal_outputs_are_returned(self) -> None: ...


class VideoLlamaImageTest(VideoLlamaModelTest):
    """The tests of image features, with a batch in which each row has an image."""

    has_images = True


for _name in dir(VideoLlamaImageTest):
    if _name.startswith("test_") and "image" not in _name and "video" not in _name:
        setattr(VideoLlamaImageTest, _name, None)
