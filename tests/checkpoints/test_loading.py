"""Load a model from an evaluation YAML or a folder of published files, with ``video_llama.load`` and directly."""

from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

import video_llama
from tests.factories.media import write_video
from tests.factories.models import make_folder
from tests.factories.published_weights import golden_weights, write_yaml
from video_llama.checkpoints.convert import convert
from video_llama.checkpoints.initialization import INITIALIZABLE_PARTS
from video_llama.checkpoints.keys import convert_state_dict
from video_llama.checkpoints.loading import load_assembly, load_yaml_model, plan
from video_llama.checkpoints.published_files import read_eval_config
from video_llama.errors import CheckpointError
from video_llama.models.modeling_llama import is_packed
from video_llama.models.placement import LoadOptions
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


def test_the_model_is_constructed_once(eval_yaml, monkeypatch):
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


def test_low_resource_in_the_yaml(tmp_path, published):
    path = write_yaml(tmp_path / "low.yaml", published, low_resource=True)
    assert is_packed(video_llama.load(path, device="cpu").engine.model)


def test_invalid_options(eval_yaml):
    pytest.importorskip("accelerate")
    for placing, message in (
        ({"quantization": "int4"}, r"int4 does not support a layer.*Use int8"),
        ({"dtype": "int7"}, "dtype is 'int7'. Choose float32"),
        (
            {"device_map": "auto", "max_memory": {"cpu": "10KB"}},
            r"Only a model folder supports offloading to disk\. Write one with: video-llama convert",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            video_llama.load(eval_yaml, device="cpu", **placing)


def test_paths_that_are_not_models(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(
        CheckpointError, match=r"empty is not a model folder\. A folder of published files must contain one decoder"
    ):
        video_llama.load(tmp_path / "empty")
    with pytest.raises(CheckpointError, match=r"nowhere is not a folder\. Give a model folder, an evaluation YAML"):
        video_llama.load(tmp_path / "nowhere")


def test_untrained_parts_in_a_yaml_never_answer(tmp_path):
    folder = make_folder(tmp_path / "half", untrained_parts=("model.video_qformer.",))
    path = tmp_path / "half.yaml"
    path.write_text(yaml.safe_dump({"model": {"pretrained": str(folder)}}))
    with pytest.raises(CheckpointError, match="has untrained parts"):
        video_llama.load(path)


class TestValues:
    def test_a_model_with_golden_s_weights(self, eval_yaml):
        folder = load_yaml_model(eval_yaml, LoadOptions(dtype=torch.float32))
        expected, _, _ = convert_state_dict(golden_weights())
        state = folder.model.state_dict()
        name = "model.video_qformer.qformer.encoder.layer.1.crossattention.attention.key.weight"
        assert torch.equal(state[name], expected[name])
        assert {tensor.dtype for tensor in state.values()} == {torch.float32}
        assert not folder.model.training
        with torch.no_grad():
            tokens = folder.model.model.encode_video(torch.randn(1, 3, 3, 28, 28))
        assert tokens.shape == (1, 5, 24)
        assert tokens.isfinite().all()
        assert folder.tokenizer.video_token_id == folder.model.config.video_token_id
        assert folder.manifest.sources == {"read from": str(eval_yaml)}

    def test_a_half_precision_decoder_is_loaded_in_bfloat16_as_in_the_reference(self, eval_yaml):
        assert load_yaml_model(eval_yaml).model.dtype == torch.bfloat16

    def test_a_yaml_that_names_a_model_folder(self, tmp_path):
        path = tmp_path / "eval.yaml"
        path.write_text(yaml.safe_dump({"model": {"pretrained": str(make_folder(tmp_path / "tiny"))}}))
        assert load_yaml_model(path).manifest.name == "tiny"

    def test_initialized_parts_are_listed_as_untrained(self, tmp_path, published):
        path = write_yaml(tmp_path / "no_branch.yaml", published, ckpt="", equip_audio_branch=False)
        config = read_eval_config(path)
        parts = [part for part in INITIALIZABLE_PARTS if part.startswith("model.video_qformer.")]
        folders = [
            load_assembly(plan(config, str(path), initializable=parts), str(path), LoadOptions(), seed=seed)
            for seed in (1, 1, 2)
        ]
        assert folders[0].manifest.untrained_parts == tuple(parts)
        queries = [folder.model.model.video_qformer.query_tokens for folder in folders]
        assert torch.equal(queries[0], queries[1])
        assert not torch.equal(queries[0], queries[2])
