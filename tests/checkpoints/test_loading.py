"""``video_llama.load`` and ``--model`` take a YAML, or published files, wherever they take a model folder."""

from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

import video_llama
from tests.factories.media import write_video
from tests.factories.models import make_folder
from tests.factories.published_weights import write_yaml
from video_llama.checkpoints.convert import convert
from video_llama.errors import CheckpointError
from video_llama.models.modeling_llama import is_packed
from video_llama.models.video_llama import VideoLlamaForConditionalGeneration

QUESTION = "What do you see?"


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> Path:
    return write_video(tmp_path_factory.mktemp("clip") / "clip.mp4", np.random.default_rng(0))


def answer(assistant, clip: Path) -> str:
    return assistant.chat(clip, no_audio=True).ask(QUESTION, max_new_tokens=6).text


def test_a_yaml_answers_as_its_converted_folder(tmp_path, eval_yaml, clip):
    convert(eval_yaml, tmp_path / "model")
    texts = [answer(video_llama.load(path, device="cpu"), clip) for path in (eval_yaml, tmp_path / "model")]
    assert texts[0] == texts[1]


def test_the_model_is_made_once(eval_yaml, monkeypatch):
    made = []
    original = VideoLlamaForConditionalGeneration.__init__
    monkeypatch.setattr(
        VideoLlamaForConditionalGeneration, "__init__", lambda self, config: (made.append(1), original(self, config))[1]
    )
    video_llama.load(eval_yaml, device="cpu")
    assert len(made) == 1


def test_options_override_the_yaml(tmp_path, eval_yaml):
    assert is_packed(video_llama.load(eval_yaml, device="cpu", options=["model.low_resource=true"]).engine.model)
    folder = make_folder(tmp_path / "model")
    with pytest.raises(
        ValueError, match=r"Overrides \(model\.ckpt=x\) apply to an evaluation YAML, and .*model is not one"
    ):
        video_llama.load(folder, options=["model.ckpt=x"])


def test_types_and_quantization(eval_yaml):
    model = video_llama.load(eval_yaml, device="cpu", dtype={"vision": "bfloat16", "decoder": "float32"}).engine.model
    assert model.dtype == torch.float32
    assert model.model.frame_encoder.vision_model.dtype == torch.bfloat16
    assert is_packed(video_llama.load(eval_yaml, device="cpu", quantization="int8").engine.model)
    assert is_packed(video_llama.load(eval_yaml, device="cpu", low_resource=True).engine.model)


def test_low_resource_of_the_yaml_counts(tmp_path, published):
    path = write_yaml(tmp_path / "low.yaml", published, low_resource=True)
    assert is_packed(video_llama.load(path, device="cpu").engine.model)


def test_what_cannot_be_is_refused(eval_yaml):
    pytest.importorskip("accelerate")
    for placing, message in (
        ({"quantization": "int4"}, r"has no 4-bit form.*Use int8"),
        ({"dtype": "int7"}, "dtype is 'int7'. Choose float32"),
        (
            {"device_map": "auto", "max_memory": {"cpu": "10KB"}},
            r"Only a model folder supports offloading to disk\. Write one with: video-llama convert",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            video_llama.load(eval_yaml, device="cpu", **placing)


def test_what_is_no_model(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError, match=r"empty is no model folder and should have one folder with a decoder"):
        video_llama.load(tmp_path / "empty")
    with pytest.raises(CheckpointError, match=r"nowhere is not a folder\. Give a model folder, an evaluation YAML"):
        video_llama.load(tmp_path / "nowhere")


def test_untrained_parts_in_a_yaml_never_answer(tmp_path):
    folder = make_folder(tmp_path / "half", untrained_parts=("model.video_qformer.",))
    path = tmp_path / "half.yaml"
    path.write_text(yaml.safe_dump({"model": {"pretrained": str(folder)}}))
    with pytest.raises(CheckpointError, match="has untrained parts"):
        video_llama.load(path)
