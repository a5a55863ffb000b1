"""transformers' own tests of a processor class, run on ours. Skipped unless VIDEO_LLAMA_TRANSFORMERS_TESTS names them.

See tests/models/test_transformers_mixins.py for the variable. Tests of parts that a processor must declare (image,
video and audio processors, which require torchvision) skip themselves: ours declares the tokenizer only.
"""

from __future__ import annotations

import importlib
import os
import shutil
import sys
import tempfile
import types
import unittest
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import video_llama.auto as auto
from tests.factories.models import SETTINGS, make_folder, tiny_config
from video_llama.processors.settings import ModelNumbers

FOLDER = os.environ.get("VIDEO_LLAMA_TRANSFORMERS_TESTS", "")
if not FOLDER:
    pytest.skip("VIDEO_LLAMA_TRANSFORMERS_TESTS is not set", allow_module_level=True)

LENGTHS = "an image of one frame and a video of eight are a list of tensors"


def _local_file(address: str) -> str:
    """Return a picture in place of one of the images on the Hub, and other addresses unchanged."""
    if Path(address).suffix not in (".png", ".jpg"):
        return address
    path = Path(tempfile.gettempdir()) / "video_llama_test_picture.png"
    Image.new("RGB", (60, 40), (200, 30, 30)).save(path)
    return str(path)


def _mixin() -> Any:
    folder = Path(FOLDER) / "tests" if (Path(FOLDER) / "tests").is_dir() else Path(FOLDER)
    package = "transformers_processing_tests"
    if package not in sys.modules:
        module = types.ModuleType(package)
        module.__path__ = [str(folder)]
        sys.modules[package] = module
    if "fetch_hub_objects_for_ci" not in sys.modules:  # not in the distribution: paths of files of its test machines
        absent = types.ModuleType("fetch_hub_objects_for_ci")
        vars(absent)["url_to_local_path"] = _local_file
        sys.modules["fetch_hub_objects_for_ci"] = absent
    return importlib.import_module(f"{package}.test_processing_common").ProcessorTesterMixin


class VideoLlamaProcessorTest(_mixin(), unittest.TestCase):  # type: ignore[misc]
    """transformers' ProcessorTesterMixin on the processor of a tiny model's folder."""

    processor_class = auto.VideoLlamaProcessor

    @classmethod
    def setUpClass(cls) -> None:
        cls.full_tmpdirname = None
        cls.tmpdirname = tempfile.mkdtemp()
        folder = make_folder(Path(cls.tmpdirname) / "model", max_frame_pos=8)
        cls.tmpdirname = str(folder)
        cls._setup_test_attributes(cls.processor_class.from_pretrained(folder))

    @classmethod
    def tearDownClass(cls) -> None:
        shutil.rmtree(Path(cls.tmpdirname).parent, ignore_errors=True)

    @staticmethod
    def prepare_processor_dict() -> dict[str, Any]:
        config = tiny_config(380, max_frame_pos=8)
        values = asdict(SETTINGS) | asdict(ModelNumbers.of(config))
        return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}

    @unittest.skip("the chat template gets media blocks without their addresses")
    def test_chat_template_message_objects(self) -> None: ...

    @unittest.skip(LENGTHS)
    def test_flat_kwarg_applied_when_modality_dict_lacks_it(self) -> None: ...
