"""The speed of forms of a model: which are measured, and the numbers that the shares of the limits rest on."""

from dataclasses import replace

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from tests.factories.models import tiny_config
from video_llama.models import cpu_benchmark
from video_llama.models.cpu import processor
from video_llama.models.cpu_benchmark import Timing, _encode_flops, measure_form, one_block_model, supported_forms
from video_llama.models.placement import LoadOptions, empty_model, resolve_placing
from video_llama.models.video_llama import VideoLlamaForConditionalGeneration


@pytest.fixture(autouse=True)
def short(monkeypatch):
    monkeypatch.setattr(cpu_benchmark, "MAX_SECONDS", 0.0)
    monkeypatch.setattr(cpu_benchmark, "BANDWIDTH_BYTES", 2**20)
    monkeypatch.setattr(cpu_benchmark, "GEMM_SIZE", 64)


def config():
    return tiny_config(380, text_config={"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 3})


def placing(**arguments):
    return resolve_placing("float32", LoadOptions(**arguments, is_for_inference=True))


def test_seconds():
    seconds = Timing(2.0, 1.0, 4.0)
    assert seconds.times(3) == Timing(6.0, 3.0, 12.0)
    assert seconds.plus(seconds) == seconds.times(2)
    calls = []
    assert Timing.of(lambda: calls.append(1)).least >= 0
    assert len(calls) == 1 + cpu_benchmark.MIN_RUNS


@pytest.mark.parametrize("name", list(supported_forms(with_emulated=True)))
def test_each_form_is_measured(name):
    arguments = cpu_benchmark.FORMS[name]
    speed = measure_form(name, arguments, config(), placing(**arguments))
    assert min(speed.encode.least, speed.first_token.least, speed.token.least, speed.memory) > 0
    tokens = (cpu_benchmark.TYPICAL_ANSWER - 1) * speed.token.median
    assert speed.answer == speed.encode.median + speed.first_token.median + tokens
    assert speed.arithmetic == placing(**arguments).describe(config())


def test_only_one_block_is_built():
    model = one_block_model(config(), placing())
    assert len(model.model.language_model.layers) == len(model.model.frame_encoder.vision_model.encoder.layers) == 1
    assert not any(tensor.is_meta for tensor in [*model.parameters(), *model.buffers()])


@pytest.mark.parametrize(
    ("arguments", "share"), [({}, 1.0), ({"dtype": "bfloat16"}, 0.5), ({"quantization": "int8"}, 0.25)]
)
def test_bytes_per_token(arguments, share):
    whole = empty_model(config(), placing())
    layers = sum(tensor.numel() * 4 for tensor in whole.model.language_model.layers.parameters())
    head = whole.lm_head.weight.numel() * 4
    found = measure_form("", arguments, config(), placing(**arguments)).token_bytes
    if arguments.get("quantization"):
        assert found - head == pytest.approx(share * layers, rel=0.02)
    else:
        assert found == share * (layers + head)


def test_operations_of_the_encoders():
    model = VideoLlamaForConditionalGeneration(config()).eval().model
    model.set_attn_implementation("eager")  # the products of other implementations are not counted
    size = config().vision_config.image_size
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter:
        model.frame_encoder.vision_model(torch.randn(8, 3, size, size))
    counts = counter.get_flop_counts()["Global"]
    patches = sum(count for kind, count in counts.items() if "conv" in str(kind))
    assert _encode_flops(config(), 0) == pytest.approx(sum(counts.values()) - patches, rel=0.02)


def test_bfloat16_is_measured_only_where_it_is_fast(monkeypatch):
    for has_bfloat16 in (True, False):
        cpu = replace(processor(), has_bfloat16=has_bfloat16, has_fbgemm=False)
        monkeypatch.setattr(cpu_benchmark, "processor", lambda cpu=cpu: cpu)
        assert ("bfloat16" in supported_forms()) == has_bfloat16
        assert "bfloat16" in supported_forms(with_emulated=True)
        assert "int8, int8 encoders" not in supported_forms()


def test_ceilings():
    ceilings = cpu_benchmark.measure_ceilings()
    assert ceilings.read_bandwidth > 0
    assert set(ceilings.matrix_products) >= {"float32", "bfloat16"}
