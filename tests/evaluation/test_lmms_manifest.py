"""The entry point for lmms-eval."""

from importlib.metadata import entry_points

import pytest

pytest.importorskip("lmms_eval", reason="lmms-eval is not installed: docs/evaluation.md")


def test_the_registry_finds_the_model():
    from lmms_eval.models.registry_v2 import ModelRegistryV2

    registry = ModelRegistryV2()
    registry.load_entrypoint_manifests()
    assert [point.value for point in entry_points(group="lmms_eval.models", name="video_llama")] == [
        "video_llama.evaluation.lmms_manifest:manifest"
    ]
    assert registry.get_model_class("video_llama").__name__ == "VideoLlamaChat"
    assert registry.get_model_class("video_llama", force_simple=True).__name__ == "VideoLlamaSimple"
