"""FBGEMM's layers: float16 weights are exact, int8 weights too for inputs with outliers."""

import pytest
import torch

from video_llama.models.cpu import processor
from video_llama.models.fbgemm_linear import FbgemmInt8Linear, Float16Linear

pytestmark = pytest.mark.skipif(not processor().has_fbgemm, reason="FBGEMM needs an x86 processor with AVX2")

CPU = torch.device("cpu")


def random(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def relative_error(found, expected):
    return float((found.double() - expected).norm() / expected.norm())


class TestFloat16:
    @pytest.mark.parametrize("num_vectors", [1, 3, 40])
    @pytest.mark.parametrize("has_bias", [False, True])
    def test_float16_weights_are_exact(self, num_vectors, has_bias):
        weight, bias, vectors = random(96, 136).half(), random(96, seed=1), random(num_vectors, 136, seed=2)
        layer = Float16Linear(136, 96, has_bias)
        layer.pack(weight, CPU)
        if has_bias:
            layer.bias = bias
        expected = torch.nn.functional.linear(vectors, weight.float(), bias if has_bias else None)
        torch.testing.assert_close(layer(vectors), expected, rtol=1e-5, atol=1e-5)
        assert torch.equal(layer.unpacked(), weight.float())

    def test_weights_above_the_range_of_float16(self):
        weight = random(16, 32) * 1e6
        layer = Float16Linear(32, 16, False)
        layer.pack(weight, CPU)
        assert relative_error(layer(random(4, 32, seed=1)), random(4, 32, seed=1).double() @ weight.double().T) < 1e-3

    def test_a_strided_input(self):
        layer, vectors = Float16Linear(32, 16, False), random(32, 4, seed=1).T
        layer.pack(random(16, 32), CPU)
        assert torch.equal(layer(vectors), layer(vectors.contiguous()))


class TestInt8:
    @pytest.mark.parametrize("num_vectors", [1, 17, 110])
    @pytest.mark.parametrize("outliers", ["none", "entries", "columns"])
    def test_the_error_is_that_of_the_weights(self, num_vectors, outliers):
        """1 % of outliers, 50 times as large, made the usual 8-bit inputs wrong by 12 %."""
        weight, vectors = random(256, 512), random(num_vectors, 512, seed=1)
        if outliers != "none":
            chosen = random(512 if outliers == "columns" else vectors.numel(), seed=2).view(-1, 512) > 2.33
            vectors = torch.where(chosen, vectors * 50, vectors)
        layer = FbgemmInt8Linear(512, 256, torch.float32)
        layer.pack(weight, CPU)
        assert relative_error(layer(vectors), vectors.double() @ layer.unpacked().double().T) < 2e-3
        assert relative_error(layer(vectors), vectors.double() @ weight.double().T) < 1e-2

    def test_each_vector_has_its_own_scale(self):
        layer, vectors = FbgemmInt8Linear(64, 32, torch.float32), random(3, 64, seed=1)
        layer.pack(random(32, 64), CPU)
        vectors[0] *= 1e6
        assert torch.allclose(layer(vectors)[1:], layer(vectors[1:]), rtol=1e-5, atol=1e-5)

    def test_zeros(self):
        layer = FbgemmInt8Linear(64, 32, torch.float32)
        layer.pack(torch.zeros(32, 64), CPU)
        assert torch.equal(layer(random(2, 64)), torch.zeros(2, 32))
        layer.pack(random(32, 64), CPU)
        assert torch.equal(layer(torch.zeros(2, 64)), torch.zeros(2, 32))

    @pytest.mark.parametrize("num_vectors", [1, 17])
    def test_one_term_and_a_bias(self, num_vectors):
        weight, bias, vectors = random(256, 512), random(256, seed=2), random(num_vectors, 512, seed=1)
        layer = FbgemmInt8Linear(512, 256, torch.float32, has_bias=True, num_terms=1)
        layer.pack(weight, CPU)
        layer.bias = bias
        exact = vectors.double() @ weight.double().T
        assert relative_error(layer(vectors) - bias, exact) < 2.5e-2

    def test_the_largest_weights_and_inputs_do_not_overflow(self):
        layer = FbgemmInt8Linear(512, 16, torch.float32, num_terms=1)
        layer.pack(torch.ones(16, 512), CPU)
        assert torch.allclose(layer(torch.ones(3, 512)), torch.full((3, 16), 512.0))
