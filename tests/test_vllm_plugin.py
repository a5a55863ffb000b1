"""vLLM's plugin. vLLM itself cannot be installed here: its registry is replaced by one that records the call."""

import sys
import types

import tomllib
from transformers import AutoProcessor

from video_llama import vllm_plugin


def test_without_vllm(model_path):
    vllm_plugin.register()
    assert type(AutoProcessor.from_pretrained(model_path)).__name__ == "VideoLlamaProcessor"


def test_the_entry_point(repository):
    project = tomllib.loads((repository / "pyproject.toml").read_text())["project"]
    assert project["entry-points"]["vllm.general_plugins"] == {"video_llama": "video_llama.vllm_plugin:register"}


def test_with_vllm(monkeypatch):
    calls = []
    registry = types.SimpleNamespace(register_model=lambda *given: calls.append(given))
    monkeypatch.setitem(sys.modules, "vllm", types.SimpleNamespace(ModelRegistry=registry))
    vllm_plugin.register()
    [(name, place)] = calls
    assert name == "VideoLlamaForConditionalGeneration"
    assert place.partition(":")[2] == "TransformersMultiModalForCausalLM"
