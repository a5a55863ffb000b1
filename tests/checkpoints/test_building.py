"""Fill a model with stored tensors: data types by part, quantized decoders, device maps, memory mapping."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import video_llama
from tests.factories.models import make_folder
from video_llama.chat import read_model_folder, write_model_folder
from video_llama.checkpoints.building import CONVERTED_ROWS
from video_llama.errors import CheckpointError
from video_llama.models.cpu import processor
from video_llama.models.fbgemm_linear import Float16Linear
from video_llama.models.ggml import has_ggml
from video_llama.models.packed_linear import PackedLinear
from video_llama.models.placement import LoadOptions
from video_llama.models.video_llama import VideoLlamaForConditionalGeneration

needs_ggml = pytest.mark.skipif(not has_ggml(), reason="needs xllamacpp")

WIDE = {"text_config": dict(hidden_size=64, intermediate_size=128, num_attention_heads=2, num_hidden_layers=2)}


@pytest.fixture(scope="module")
def wide_path(tmp_path_factory):
    """A folder whose decoder has sizes that int4 supports."""
    return make_folder(tmp_path_factory.mktemp("wide") / "model", **WIDE)


def inputs(config):
    generator = torch.Generator().manual_seed(0)
    size = config.vision_config.image_size
    ids = [[1, *[config.video_token_id] * config.num_video_query_tokens, 5, 6]]
    ids[0] += [config.audio_token_id] * config.num_audio_query_tokens
    return {
        "input_ids": torch.tensor(ids),
        "pixel_values_videos": torch.randn(1, 3, 3, size, size, generator=generator),
        "input_features": torch.randn(1, 2, 1, 16, 26, generator=generator),
    }


def logits(model):
    with torch.no_grad():
        return model(**inputs(model.config)).logits


def dtypes(model):
    body = model.model
    return {
        "vision": body.frame_encoder.vision_model.post_layernorm.weight.dtype,
        "qformer": body.video_qformer.language_projection.weight.dtype,
        "audio": body.imagebind_audio.head.weight.dtype,
        "decoder": body.language_model.norm.weight.dtype,
    }


class TestLoading:
    def test_equals_from_pretrained_of_transformers(self, model_path):
        ours = read_model_folder(model_path).model
        theirs = VideoLlamaForConditionalGeneration.from_pretrained(model_path).eval()
        assert ours.state_dict().keys() == theirs.state_dict().keys()
        assert torch.equal(logits(ours), logits(theirs))

    def test_tensors_are_mapped(self, model_path):
        """A tensor that keeps its data type is mapped: loading it twice does not need twice the memory."""
        model = read_model_folder(model_path).model
        maps = Path("/proc/self/maps").read_text().splitlines()
        spans = [line.split()[0].split("-") for line in maps if str(model_path) in line]
        for name, tensor in model.named_parameters():
            assert any(int(low, 16) <= tensor.data_ptr() < int(high, 16) for low, high in spans), name

    def test_training_does_not_change_the_file(self, model_path):
        before = load_file(model_path / "model.safetensors")
        model = read_model_folder(model_path).model
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(1.0)
        after = load_file(model_path / "model.safetensors")
        assert all(torch.equal(before[name], after[name]) for name in before)
        assert not torch.equal(model.lm_head.weight, after["lm_head.weight"])

    def test_tied_embeddings(self, tmp_path, wide_path):
        path = make_folder(tmp_path / "tied", tie_word_embeddings=True)
        model = read_model_folder(path).model
        assert model.lm_head.weight is model.get_input_embeddings().weight

    def test_unused_parts_are_not_built(self, tmp_path):
        """The audio branch needs ImageBind's audio tower; its vision tower is used only in training."""
        both = read_model_folder(make_folder(tmp_path / "audio")).model.model
        assert hasattr(both, "imagebind_audio")
        assert not hasattr(both, "imagebind_vision")
        without_audio = read_model_folder(make_folder(tmp_path / "without_audio", with_audio_branch=False)).model.model
        assert not hasattr(without_audio, "imagebind_audio")
        assert not hasattr(without_audio, "audio_qformer")


class TestDtypes:
    def test_a_half_precision_type_keeps_the_qformers_in_float32(self, model_path):
        model = read_model_folder(model_path, LoadOptions(dtype="bfloat16")).model
        low = torch.bfloat16
        assert dtypes(model) == {"vision": low, "qformer": torch.float32, "audio": low, "decoder": low}
        assert model.dtype == low
        assert model.model.imagebind_audio.log_logit_scale.dtype == torch.float32
        exact = logits(read_model_folder(model_path).model)
        # 8 bits of mantissa through a model of few, large random weights.
        assert (logits(model).float() - exact).abs().mean() < 0.05 * exact.std()

    def test_float16_becomes_bfloat16_as_in_torch(self, tmp_path, model_path):
        folder = read_model_folder(model_path)
        stored = {name: tensor.half() for name, tensor in folder.model.state_dict().items()}
        folder.model.half()
        half = tmp_path / "half"
        tokenizer_path = model_path / "tokenizer.model"
        rest = {"settings": folder.settings, "manifest": folder.manifest}
        write_model_folder(half, folder.model, tokenizer_path=tokenizer_path, **rest)
        loaded = read_model_folder(half, LoadOptions(dtype="bfloat16")).model.state_dict()
        assert any(len(tensor) > CONVERTED_ROWS for tensor in stored.values() if tensor.dim() == 2)
        assert all(torch.equal(loaded[name], tensor.to(loaded[name].dtype)) for name, tensor in stored.items())

    @pytest.mark.skipif(not processor().has_fbgemm, reason="FBGEMM needs an x86 processor with AVX2")
    def test_inference_with_float16_weights(self, tmp_path, model_path):
        folder = read_model_folder(model_path)
        folder.model.half()
        half, rest = tmp_path / "half", {"settings": folder.settings, "manifest": folder.manifest}
        write_model_folder(half, folder.model, tokenizer_path=model_path / "tokenizer.model", **rest)
        exact = logits(read_model_folder(half, LoadOptions(dtype="float32")).model)
        loaded = read_model_folder(half, LoadOptions(is_for_inference=True))
        kinds = {type(module) for module in loaded.model.model.frame_encoder.vision_model.modules()}
        assert Float16Linear in kinds
        assert torch.nn.Linear not in kinds
        assert isinstance(loaded.model.lm_head, Float16Linear)
        torch.testing.assert_close(logits(loaded.model), exact, rtol=1e-4, atol=1e-4)

    @pytest.mark.skipif(not processor().has_fbgemm, reason="FBGEMM needs an x86 processor with AVX2")
    def test_encoders_in_int8(self, model_path):
        exact = logits(read_model_folder(model_path).model)
        options = LoadOptions(encoder_quantization="int8", is_for_inference=True)
        found = logits(read_model_folder(model_path, options).model)
        assert not torch.equal(found, exact)
        torch.testing.assert_close(found, exact, rtol=0, atol=0.02 * float(exact.abs().max()))

    def test_by_part(self, model_path):
        requested = {"vision": "bfloat16", "qformer": "bfloat16", "decoder": torch.float64}
        model = read_model_folder(model_path, LoadOptions(dtype=requested)).model
        assert dtypes(model) == {
            "vision": torch.bfloat16,
            "qformer": torch.bfloat16,
            "audio": torch.float32,
            "decoder": torch.float64,
        }
        assert logits(model).dtype == torch.float64

    def test_a_saved_config_has_the_type_of_the_decoder(self, model_path, tmp_path):
        model = read_model_folder(model_path, LoadOptions(dtype="bfloat16")).model
        model.save_pretrained(tmp_path)
        assert '"dtype": "bfloat16"' in (tmp_path / "config.json").read_text()


class TestQuantization:
    # Measured 0.025 and 0.39 of the spread on this random decoder; a wrong scale or order gives more than 1.
    @pytest.mark.parametrize(
        ("quantization", "allowed"), [("int8", 0.05), ("int4", 0.6), pytest.param("q4_k", 0.6, marks=needs_ggml)]
    )
    def test_outputs_are_close(self, wide_path, quantization, allowed):
        exact = logits(read_model_folder(wide_path).model)
        model = read_model_folder(wide_path, LoadOptions(quantization=quantization)).model
        packed = [module for module in model.modules() if isinstance(module, PackedLinear)]
        assert len(packed) == 2 * 7
        words = slice(0, model.config.video_token_id)  # the logits of the media places are masked
        difference = (logits(model) - exact)[..., words].abs().mean() / exact[..., words].std()
        assert 0 < difference < allowed

    @pytest.mark.parametrize("quantization", ["int8", "int4", pytest.param("q4_k", marks=needs_ggml)])
    def test_generates(self, wide_path, quantization, clips):
        answer = video_llama.load(wide_path, device="cpu", quantization=quantization, dtype="bfloat16").chat(
            clips["video"]
        )
        assert answer.ask("What is it?", max_new_tokens=4).record.tokens["generated"] > 0

    def test_a_size_that_int4_does_not_support(self, model_path):
        with pytest.raises(ValueError, match=r"int4 does not support a layer with 48 inputs and 32 outputs.* Use int8"):
            read_model_folder(model_path, LoadOptions(quantization="int4"))

    def test_low_resource(self, wide_path):
        model = read_model_folder(wide_path, LoadOptions(low_resource=True)).model
        assert isinstance(model.model.language_model.layers[0].mlp.up_proj, PackedLinear)

    def test_a_quantized_model_cannot_be_saved(self, wide_path, tmp_path):
        folder = read_model_folder(wide_path, LoadOptions(quantization="int8"))
        with pytest.raises(
            CheckpointError, match=r"a quantized decoder cannot be saved\. Load the model without quantization"
        ):
            write_model_folder(
                tmp_path / "again",
                folder.model,
                tokenizer_path=wide_path / "tokenizer.model",
                settings=folder.settings,
                manifest=folder.manifest,
            )


class TestDeviceMap:
    def test_auto(self, model_path):
        pytest.importorskip("accelerate")
        exact = logits(read_model_folder(model_path).model)
        assert torch.equal(logits(read_model_folder(model_path, LoadOptions(device_map="auto")).model), exact)

    def test_disk(self, model_path):
        pytest.importorskip("accelerate")
        exact = logits(read_model_folder(model_path).model)
        device_map = {"": "cpu", "model.language_model.layers": "disk", "model.video_qformer": "disk"}
        model = read_model_folder(model_path, LoadOptions(device_map=device_map)).model
        assert model.model.language_model.layers[1].mlp.up_proj.weight.is_meta
        assert torch.equal(logits(model), exact)

    def test_auto_offloads_to_disk(self, model_path, clips):
        pytest.importorskip("accelerate")
        assistant = video_llama.load(model_path, device="cpu", device_map="auto", max_memory={"cpu": "150KB"})
        model = assistant.engine.model
        assert any(parameter.is_meta for parameter in model.parameters())
        expected = video_llama.load(model_path, device="cpu").chat(clips["video"]).ask("What?", max_new_tokens=5).text
        assert assistant.chat(clips["video"]).ask("What?", max_new_tokens=5).text == expected

    def test_a_quantized_decoder_cannot_be_offloaded_to_disk(self, wide_path):
        pytest.importorskip("accelerate")
        with pytest.raises(
            ValueError,
            match=r"would offload model\.language_model\.layers.* to disk, which an int8 decoder does not support",
        ):
            read_model_folder(
                wide_path,
                LoadOptions(quantization="int8", device_map={"": "cpu", "model.language_model.layers": "disk"}),
            )

    def test_a_map_that_misses_a_module(self, model_path):
        pytest.importorskip("accelerate")
        with pytest.raises(ValueError, match="device_map has no entry for"):
            read_model_folder(model_path, LoadOptions(device_map={"model": "cpu"}))
