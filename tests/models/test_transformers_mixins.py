"""transformers' own tests of a model class, run on ours. Skipped unless VIDEO_LLAMA_TRANSFORMERS_TESTS names them.

The tests are not part of an installed transformers and not of this repository; its source distribution has them::

    pip download --no-deps --no-binary transformers transformers==5.23.0 && tar xf transformers-5.23.0.tar.gz
    VIDEO_LLAMA_TRANSFORMERS_TESTS=transformers-5.23.0/tests python -m pytest tests/models/test_transformers_mixins.py

``test_modeling_common`` also imports tests of ``generate`` and of exporters that the distribution lacks; empty classes
take their place (tests/models/test_generation_modes.py tests ``generate``). A test that cannot apply is skipped in
``NOT_APPLICABLE`` with its reason.
"""

from __future__ import annotations

import copy
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
NOT_APPLICABLE: dict[str, str] = {}
"""Test -> why it does not apply to this model."""


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
    return importlib.import_module(f"{PACKAGE}.{name}")


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

    def __init__(self, parent: Any) -> None:
        self.parent = parent
        self.text_config = self.get_config().text_config.to_dict()
        self.vision_config = self.get_config().vision_config.to_dict()
        self.audio_config = self.get_config().imagebind_audio_config.to_dict()
        self.seq_length = self.prepare_config_and_inputs_for_common()[1]["input_ids"].shape[1]

    def get_config(self) -> VideoLlamaConfig:
        config = tiny_config(
            self.vocab_size,
            video_token_id=self.vocab_size - 2,
            audio_token_id=self.vocab_size - 1,
            vision_config={"num_hidden_layers": 2, "initializer_range": 0.02},
            qformer_config={
                "initializer_range": 0.02,
                "hidden_dropout_prob": 0.0,
                "attention_probs_dropout_prob": 0.0,
            },
            text_config={"initializer_range": 0.02, "bos_token_id": 1, "eos_token_id": 2},
            initializer_range=0.02,
        )
        config.vocab_size = self.vocab_size
        return config

    def prepare_config_and_inputs_for_common(self) -> tuple[VideoLlamaConfig, dict[str, Any]]:
        config = self.get_config()
        places = [config.video_token_id] * config.num_video_query_tokens
        places += [config.audio_token_id] * config.num_audio_query_tokens
        words = torch.randint(3, self.vocab_size - 2, (self.batch_size, 7))
        ids = torch.cat([words[:, :1], torch.tensor([places] * self.batch_size), words[:, 1:]], dim=1)
        return config, {
            "input_ids": ids,
            "attention_mask": torch.ones_like(ids),
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

    def setUp(self) -> None:
        reason = NOT_APPLICABLE.get(self._testMethodName)
        if reason:
            self.skipTest(reason)
        self.model_tester = VideoLlamaModelTester(self)
        self.model_tester.causal_lm_class = VideoLlamaForConditionalGeneration
        self.config_tester = config_tester()(self, config_class=VideoLlamaConfig, has_text_modality=False)

    def test_config(self) -> None:
        self.config_tester.run_common_tests()

    def _prepare_for_class(self, inputs_dict: Any, model_class: Any, return_labels: bool = False) -> Any:
        """Labels are added for transformers' own class names only; ours has them too."""
        inputs = copy.deepcopy(inputs_dict)
        if return_labels and model_class is VideoLlamaForConditionalGeneration:
            inputs["labels"] = torch.zeros(inputs["input_ids"].shape, dtype=torch.long)
        return inputs
