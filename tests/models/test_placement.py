"""Load options resolved to a plan: data types per part, device maps, tensors on the meta device."""

from dataclasses import replace

import pytest
import torch

from tests.factories.models import tiny_config
from video_llama.models import placement
from video_llama.models.cpu import Processor
from video_llama.models.fbgemm_linear import FbgemmInt8Linear, Float16Linear
from video_llama.models.ggml import has_ggml
from video_llama.models.packed_linear import PackedLinear
from video_llama.models.placement import (
    MODEL_PARTS,
    VIT,
    LoadOptions,
    Placing,
    device_of,
    empty_model,
    main_device,
    meta_model,
    part_of,
    put_tensor,
    resolve_device_map,
    resolve_placing,
)
from video_llama.models.q4_k_linear import Q4KLinear


class TestResolving:
    def test_float16_is_for_gpus(self):
        assert set(resolve_placing("float16", LoadOptions()).dtypes.values()) == {torch.float32}
        assert resolve_placing("float16", LoadOptions(device="cuda")).dtypes["decoder"] == torch.float16

    def test_the_qformers_stay_in_float32(self):
        dtypes = resolve_placing("float32", LoadOptions(dtype="bfloat16")).dtypes
        assert dtypes == dict.fromkeys(MODEL_PARTS, torch.bfloat16) | {"qformer": torch.float32}

    def test_data_types_by_part(self):
        dtypes = resolve_placing("float32", LoadOptions(dtype={"vision": "bfloat16", "qformer": torch.bfloat16})).dtypes
        assert dtypes == dict.fromkeys(MODEL_PARTS, torch.float32) | dict.fromkeys(
            ("vision", "qformer"), torch.bfloat16
        )

    def test_low_resource_is_int8_with_the_vit_on_the_cpu(self):
        placing = resolve_placing("float16", LoadOptions(device="cuda", low_resource=True))
        assert (placing.quantization, placing.is_vit_on_cpu) == ("int8", True)
        assert (placing.dtypes["vision"], placing.dtypes["decoder"]) == (torch.float32, torch.float16)
        assert resolve_device_map(meta_model(tiny_config(380)), placing) == {"": torch.device("cuda"), VIT: "cpu"}

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"dtype": "fp8"}, "dtype is 'fp8'. Choose float32, bfloat16, float16"),
            (
                {"dtype": {"decodr": "bfloat16"}},
                "dtype has unknown parts: decodr. The parts are vision, qformer, audio, decoder",
            ),
            ({"quantization": "int2"}, "quantization is 'int2'. Choose int8, int4 or q4_k"),
            ({"device_map": "balanced"}, "device_map is 'balanced'. Use \"auto\""),
            ({"max_memory": {"cpu": 1}}, 'max_memory requires device_map="auto"'),
            ({"low_resource": True, "device_map": "auto"}, "low_resource sets the device of every part"),
        ],
    )
    def test_invalid_options(self, options, message):
        with pytest.raises(ValueError, match=message):
            resolve_placing("float32", LoadOptions(**options))


EMULATING = Processor("old", ("avx2",), has_bfloat16=False, has_fbgemm=True)


class TestInference:
    """The form of half-precision parts on a CPU."""

    @pytest.fixture(autouse=True)
    def processor(self, monkeypatch):
        monkeypatch.setattr(placement, "processor", lambda: self.cpu)

    cpu = EMULATING

    def resolve(self, stored, **options):
        return resolve_placing(stored, LoadOptions(is_for_inference=True, **options))

    def test_bfloat16_is_not_emulated(self):
        placing = self.resolve("bfloat16")
        assert set(placing.dtypes.values()) == {torch.float32}
        assert placing.float16_parts == ("vision", "audio", "decoder")
        assert placing.describe(tiny_config(380)) == {
            **dict.fromkeys(("vision", "audio", "decoder"), "float16 weights, float32 arithmetic"),
            "qformer": "float32",
            "reason": "old has no bfloat16 arithmetic",
        }

    def test_a_processor_with_bfloat16_units_computes_in_it(self):
        self.cpu = replace(EMULATING, has_bfloat16=True)
        placing = self.resolve("bfloat16")
        assert (placing.dtypes["decoder"], placing.float16_parts, placing.reason) == (torch.bfloat16, (), "")
        assert self.resolve("float16").float16_parts == ("vision", "audio", "decoder")

    def test_without_fbgemm_the_weights_become_float32(self):
        self.cpu = replace(EMULATING, has_fbgemm=False)
        placing = self.resolve("bfloat16")
        assert (placing.dtypes["decoder"], placing.float16_parts) == (torch.float32, ())

    def test_a_requested_type_is_kept(self):
        assert self.resolve("bfloat16", dtype="bfloat16") == resolve_placing("bfloat16", LoadOptions(dtype="bfloat16"))
        placing = self.resolve("bfloat16", dtype={"vision": "bfloat16"})
        assert (placing.dtypes["vision"], placing.dtypes["audio"]) == (torch.bfloat16, torch.float32)
        assert placing.float16_parts == ("audio", "decoder")

    def test_float32_and_other_devices_and_training_are_unchanged(self):
        assert self.resolve("float32").float16_parts == ()
        assert self.resolve("bfloat16", device="cuda").dtypes["decoder"] == torch.bfloat16
        assert self.resolve("bfloat16", device_map="auto").dtypes["decoder"] == torch.bfloat16
        assert resolve_placing("bfloat16", LoadOptions()).dtypes["decoder"] == torch.bfloat16

    def test_a_quantized_decoder(self):
        placing = self.resolve("bfloat16", quantization="int8")
        layers = empty_model(tiny_config(380), placing).model
        assert isinstance(layers.frame_encoder.vision_model.encoder.layers[0].mlp.fc1, Float16Linear)
        assert not isinstance(layers.language_model.layers[0].mlp.up_proj, Float16Linear)
        assert placing.describe(tiny_config(380))["decoder"] == "int8 weights, float32 arithmetic"


class TestEncoderQuantization:
    @pytest.fixture(autouse=True)
    def processor(self, monkeypatch):
        monkeypatch.setattr(placement, "processor", lambda: self.cpu)

    cpu = EMULATING

    def test_encoders_and_nothing_else(self):
        options = LoadOptions(encoder_quantization="int8", is_for_inference=True)
        placing = resolve_placing("bfloat16", options)
        described = placing.describe(tiny_config(380))
        assert described["vision"] == described["audio"] == "int8 weights and inputs"
        assert described["decoder"] == "float16 weights, float32 arithmetic"
        model = empty_model(tiny_config(380), placing)
        packed = {part_of(name) for name, module in model.named_modules() if isinstance(module, FbgemmInt8Linear)}
        assert packed == {"vision", "audio"}

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"encoder_quantization": "int4"}, "The only choice is int8"),
            ({"encoder_quantization": "int8", "dtype": "bfloat16"}, "excludes a data type for vision"),
            ({"encoder_quantization": "int8", "device_map": "auto"}, "without device_map"),
            ({"encoder_quantization": "int8", "device": "cuda"}, r"requires a model on an x86 CPU .*device: cuda"),
        ],
    )
    def test_invalid_options(self, options, message):
        with pytest.raises(ValueError, match=message):
            resolve_placing("float32", LoadOptions(**options))

    def test_a_processor_without_the_kernels(self):
        self.cpu = replace(EMULATING, has_fbgemm=False)
        with pytest.raises(ValueError, match="requires a model on an x86 CPU"):
            resolve_placing("float32", LoadOptions(encoder_quantization="int8"))


@pytest.mark.skipif(not has_ggml(), reason="needs xllamacpp")
def test_q4_k_is_recorded():
    placing = resolve_placing("float32", LoadOptions(quantization="q4_k", is_for_inference=True))
    assert placing.describe(tiny_config(380))["decoder"] == "q4_k weights, 8-bit inputs"
    packed = {
        part_of(name)
        for name, module in empty_model(tiny_config(380), placing).named_modules()
        if isinstance(module, Q4KLinear)
    }
    assert packed == {"decoder"}


class TestDeviceMap:
    def test_the_longest_prefix_applies(self):
        device_map = {"": "cpu", "model.language_model": 0, "model.language_model.layers.1": "disk"}
        assert device_of("lm_head.weight", device_map) == "cpu"
        assert device_of("model.language_model.norm.weight", device_map) == 0
        assert device_of("model.language_model.layers.1.mlp.up_proj.weight", device_map) == "disk"
        assert device_of("model.language_model.layers.10.mlp.up_proj.weight", device_map) == 0

    def test_the_main_device_is_the_first_gpu(self):
        assert main_device({"a": "disk", "b": "cpu", "c": "cuda:1", "d": "cuda:0"}) == torch.device("cuda:1")
        assert main_device({"a": "disk"}) == torch.device("cpu")

    def test_nested_entries_are_replaced_by_their_children(self):
        pytest.importorskip("accelerate")
        model = meta_model(tiny_config(380))
        device_map = {"": "cpu", "model.language_model.layers.0": "disk"}
        resolved = resolve_device_map(model, resolve_placing("float32", LoadOptions(device_map=device_map)))
        assert resolved["model.language_model.layers.0"] == "disk"
        assert all(name == other or not other.startswith(f"{name}.") for name in resolved for other in resolved)
        assert all(device_of(name, resolved) == device_of(name, device_map) for name, _ in model.named_parameters())


class TestMetaModels:
    def test_an_empty_model_has_the_types_of_its_parts(self):
        placing = Placing(
            dict(zip(MODEL_PARTS, (torch.bfloat16, torch.float32, torch.float16, torch.float64), strict=True))
        )
        model = empty_model(tiny_config(380), placing)
        assert not model.training
        for name, parameter in model.named_parameters():
            assert parameter.is_meta, name
            assert parameter.dtype == placing.dtypes[part_of(name)], name

    def test_a_quantized_decoder(self):
        model = empty_model(tiny_config(380), resolve_placing("float32", LoadOptions(quantization="int8")))
        assert isinstance(model.model.language_model.layers[0].mlp.up_proj, PackedLinear)
        assert type(model.lm_head) is torch.nn.Linear

    def test_put_tensor_sets_the_tensor_itself(self):
        module = torch.nn.BatchNorm1d(3)
        weight, mean = torch.ones(3), torch.zeros(3)
        put_tensor(module, "weight", weight)
        put_tensor(module, "running_mean", mean)
        assert module.weight.data_ptr() == weight.data_ptr()
        assert module.running_mean is mean


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("model.frame_encoder.vision_model.post_layernorm.weight", "vision"),
        ("model.frame_encoder.query_tokens", "qformer"),
        ("model.audio_qformer.language_projection.bias", "qformer"),
        ("model.imagebind_audio.head.weight", "audio"),
        ("model.language_model.norm.weight", "decoder"),
        ("lm_head.weight", "decoder"),
    ],
)
def test_the_part_of_a_name(name, part):
    assert part_of(name) == part
