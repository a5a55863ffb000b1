"""Fake tensors with known integers, and the device that stands for a GPU."""

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensor

from tests.factories.models import tiny_config
from video_llama.models.memory import published_config
from video_llama.models.placement import LoadOptions, empty_model, meta_model, resolve_placing
from video_llama.models.simulation import (
    SimulatedLinear,
    fake_tensors,
    fill_with_fakes,
    pack_simulated,
    simulated_device,
)

try:
    DEVICE = simulated_device()
except RuntimeError as error:  # an older torch
    pytest.skip(str(error), allow_module_level=True)


class TestKnownIntegers:
    def test_ids_are_counted_after_a_copy_to_the_device(self):
        with fake_tensors():
            ids = torch.ones(2, 3, dtype=torch.long)
            ids[:, 1] = ids[0, 2] = 7
            moved = ids.to(DEVICE)
            assert isinstance(moved, FakeTensor)
            assert moved.device == DEVICE
            assert int((moved == 7).sum()) == 3
            assert bool((moved[:, 1:] != 7).any())

    def test_changes_in_place(self):
        with fake_tensors():
            labels = torch.ones(2, 4, dtype=torch.long, device=DEVICE)
            labels[:, :3] = -100
            assert int((labels != -100).sum()) == 2

    def test_numbers_that_are_not_known(self):
        with fake_tensors():
            assert float(torch.ones(3, device=DEVICE).mean()) == 1.0


class TestDevice:
    def test_mixing_devices_is_an_error(self):
        with fake_tensors(), pytest.raises(RuntimeError, match="device"):
            torch.ones(2, device=DEVICE) + torch.ones(2)

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
    def test_autocast_has_the_data_types_of_cuda(self, dtype):
        with fake_tensors(), torch.autocast(DEVICE.type, dtype):
            layer = torch.nn.Linear(4, 4, device=DEVICE)
            output = layer(torch.ones(2, 4, device=DEVICE))
            norm = torch.nn.functional.layer_norm(output, (4,))
            assert (output.dtype, norm.dtype) == (dtype, torch.float32)
            assert (output @ output.T).dtype is dtype
            assert output.softmax(-1).dtype is torch.float32
            query = torch.ones(1, 2, 3, 4, device=DEVICE)
            assert torch.nn.functional.scaled_dot_product_attention(query, query, query).dtype is dtype

    def test_attention_never_makes_the_matrix_of_weights(self):
        from video_llama.models.allocations import AllocationTracker

        with fake_tensors(), AllocationTracker("sim") as tracker:
            query = torch.ones(1, 1, 1024, 8, device=DEVICE, requires_grad=True)
            torch.nn.functional.scaled_dot_product_attention(query, query, query, is_causal=True).sum().backward()
            assert sum(tracker.peak().values()) < 1024 * 1024

    def test_a_backward_pass_with_dropout_and_autocast(self):
        with fake_tensors(), torch.autocast(DEVICE.type, torch.bfloat16):
            layer = torch.nn.Sequential(torch.nn.Linear(4, 4, device=DEVICE), torch.nn.Dropout(0.1))
            layer(torch.ones(2, 4, device=DEVICE)).float().sum().backward()
            assert layer[0].weight.grad.device == DEVICE


def test_the_whole_7b_model_encodes_and_reads_a_prompt():
    config = published_config("7b")
    model = empty_model(config, resolve_placing("bfloat16", LoadOptions(device=DEVICE)))
    with fake_tensors(), torch.no_grad():
        fill_with_fakes(model, DEVICE)
        ids = torch.ones(1, 50, dtype=torch.long)
        ids[:, 5:37] = config.video_token_id
        pixels = torch.zeros(1, 8, 3, 224, 224, device=DEVICE)
        logits = model(input_ids=ids.to(DEVICE), pixel_values_videos=pixels, use_cache=False).logits
    assert (tuple(logits.shape), logits.dtype, logits.device) == ((1, 50, 32000), torch.bfloat16, DEVICE)


def test_tied_weights_stay_tied():
    model = meta_model(tiny_config(100, text_config={"tie_word_embeddings": True}))
    model.tie_weights()
    with fake_tensors():
        fill_with_fakes(model, DEVICE)
    assert model.lm_head.weight is model.get_input_embeddings().weight


@pytest.mark.parametrize(("quantization", "num_bytes"), [("int8", 1), ("int4", 0.5)])
def test_quantized_layers(quantization, num_bytes):
    model = meta_model(tiny_config(100, text_config={"hidden_size": 64, "intermediate_size": 64}))
    layers = model.model.language_model.layers
    pack_simulated(layers, quantization, torch.bfloat16)
    packed = layers[0].self_attn.q_proj
    assert isinstance(packed, SimulatedLinear)
    assert packed.weight.numel() == 64 * 64 * num_bytes
    with fake_tensors():
        fill_with_fakes(layers, DEVICE)
        vectors = torch.ones(3, 64, device=DEVICE, requires_grad=True)
        output = packed(vectors)
        output.sum().backward()
    assert output.dtype is torch.bfloat16
    assert vectors.grad.shape == (3, 64)
