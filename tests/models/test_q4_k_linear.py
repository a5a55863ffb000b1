"""The format Q4_K: the bytes that ggml reads, errors within the limits of 4 bits, and layers of any width."""

import copy
import pickle

import gguf
import pytest
import torch

from tests.models.test_packed_linear import packed, random
from video_llama.models.ggml import has_ggml
from video_llama.models.packed_linear import Int4Linear
from video_llama.models.q4_k_linear import Q4KLinear, dequantize, quantize

pytestmark = pytest.mark.skipif(not has_ggml(), reason="needs xllamacpp")


def error_of(found, expected):
    return float((found - expected).norm() / expected.norm())


@pytest.mark.parametrize("shift", [0.0, 3.0, -3.0])
@pytest.mark.parametrize("shape", [(5, 256), (3, 1024)])
def test_the_bytes_are_those_of_the_format(shape, shift):
    """The package gguf dequantizes them to the same weights."""
    weight = random(*shape) + shift
    data = quantize(weight.clone())
    theirs = torch.from_numpy(gguf.dequantize(data.numpy(), gguf.GGMLQuantizationType.Q4_K))
    torch.testing.assert_close(dequantize(data), theirs, rtol=1e-6, atol=1e-6)
    assert error_of(theirs, weight) < 0.09


def test_the_error_is_below_that_of_int4():
    weight = random(64, 1024)
    assert error_of(packed(Q4KLinear, weight).unpacked(), weight) < error_of(
        packed(Int4Linear, weight).unpacked(), weight
    )


@pytest.mark.parametrize("value", [0.0, 0.75, -3.0])
def test_equal_weights(value):
    shown = dequantize(quantize(torch.full((2, 256), value)))
    torch.testing.assert_close(shown, torch.full((2, 256), value), rtol=1e-3, atol=0)


@pytest.mark.parametrize("size", [1e-7, 3e-6, 1e-5, 1e-3])
def test_tiny_weights(size):
    """Scales are float16; weights below their range become 0."""
    weight = random(4, 256) * size
    assert error_of(dequantize(quantize(weight.clone())), weight) < (1.01 if size < 1e-5 else 0.1)


def test_a_group_of_large_weights_does_not_change_its_neighbours_much():
    weight = random(1, 256)
    weight[:, 32:64] *= 20
    shown = dequantize(quantize(weight.clone()))
    assert error_of(shown[:, 64:], weight[:, 64:]) < 0.3  # the block's unit is 20 times as large


@pytest.mark.parametrize("inputs", [192, 256, 257, 576])
@pytest.mark.parametrize("num_vectors", [1, 3, 40])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_layers_of_any_width(inputs, num_vectors, dtype):
    weight, vectors = random(40, inputs), random(num_vectors, inputs, seed=1, dtype=dtype)
    layer = packed(Q4KLinear, weight, dtype)
    found = layer(vectors)
    assert (found.dtype, found.shape, layer.unpacked().shape) == (dtype, (num_vectors, 40), (40, inputs))
    assert error_of(found.float(), vectors.float() @ layer.unpacked().float().T) < 0.02
    assert error_of(found.float(), vectors.float() @ weight.T) < 0.12


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_values_that_are_not_finite_are_not_hidden(value):
    layer, vectors = packed(Q4KLinear, random(8, 256)), random(3, 256)
    vectors[1, 7] = value
    assert layer(vectors).isfinite().all(dim=1).tolist() == [True, False, True]


def test_gradients_are_those_of_the_dequantized_layer():
    layer, vectors = packed(Q4KLinear, random(96, 256)), random(3, 256, seed=1).requires_grad_()
    pull = random(3, 96, seed=2)
    (gradient,) = torch.autograd.grad(layer(vectors), vectors, pull)
    torch.testing.assert_close(gradient, pull @ layer.unpacked(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("again", [copy.deepcopy, lambda layer: pickle.loads(pickle.dumps(layer))])
def test_copies(again):
    layer, vectors = packed(Q4KLinear, random(96, 256)), random(3, 256, seed=1)
    expected, other = layer(vectors), again(layer)
    del layer
    assert torch.equal(other(vectors), expected)


def test_packing_does_not_change_the_weight():
    """It may be mapped to a file, or belong to another model."""
    weight = random(64, 256)
    packed(Q4KLinear, weight)
    assert torch.equal(weight, random(64, 256))


def test_bytes():
    with torch.device("meta"):
        layer = Q4KLinear(512, 64, torch.bfloat16)
    assert layer.weight.nbytes == 64 * 2 * 144
