"""Quantized linear layers: close to the float layer within the limits of their bits; unsupported sizes are errors."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from video_llama.models.cpu import processor
from video_llama.models.fbgemm_linear import FbgemmInt8Linear
from video_llama.models.packed_linear import Int4Linear, Int8Linear

CPU = torch.device("cpu")

LEVELS = {Int8Linear: 254, FbgemmInt8Linear: 254, Int4Linear: 15}
needs_fbgemm = pytest.mark.skipif(not processor().has_fbgemm, reason="FBGEMM needs an x86 processor with AVX2")
KINDS = [Int8Linear, pytest.param(FbgemmInt8Linear, marks=needs_fbgemm), Int4Linear]


def computes_in_bfloat16(kind, dtype):
    return dtype is torch.bfloat16 or kind is Int4Linear


def packed(kind, weight, dtype=torch.float32):
    out_features, in_features = weight.shape
    layer = kind(in_features, out_features, dtype)
    layer.pack(weight, CPU)
    return layer


def random(*shape, seed=0, dtype=torch.float32):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


@pytest.mark.parametrize("kind", KINDS)
class TestPacking:
    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
    @pytest.mark.parametrize("num_vectors", [1, 15, 16, 40])
    def test_every_weight_is_within_half_a_step(self, kind, dtype, num_vectors):
        """Unit vectors as input return the weights. The numbers of vectors cover both kernels of int8."""
        weight = random(96, 128)
        shown = packed(kind, weight, dtype)(torch.eye(128, dtype=dtype)[:num_vectors]).float().T
        span = weight.amax() - weight.amin() if kind is Int4Linear else 2 * weight.abs().amax()
        half_step = span / LEVELS[kind] / 2
        # bfloat16: 8 bits of mantissa, twice. FBGEMM: two terms of 7 bits.
        rounding = 0.01 * weight.abs().amax() if computes_in_bfloat16(kind, dtype) else 4e-4
        assert (shown - weight[:, :num_vectors]).abs().max() <= half_step + rounding

    def test_shapes(self, kind):
        layer = packed(kind, random(32, 64))
        assert layer(random(2, 3, 64)).shape == (2, 3, 32)
        assert layer(random(2, 30, 64)).shape == (2, 30, 32)

    def test_blocks_of_rows(self, kind):
        """More rows than one block, and an incomplete block: the result does not depend on the blocks."""
        weight, vector = random(256 * 2 + 80, 1024), random(3, 1024, seed=1)
        whole = packed(kind, weight)(vector)
        halves = [packed(kind, weight[256:])(vector), packed(kind, weight[:256])(vector)]
        rtol = 2**-7 if kind is Int4Linear else 1e-5
        assert torch.allclose(whole, torch.cat(halves[::-1], dim=-1), rtol=rtol, atol=1e-4)

    def test_packing_does_not_change_the_weight(self, kind):
        """It may be mapped to a file, or belong to another model."""
        weight = random(64, 128)
        packed(kind, weight)
        assert torch.equal(weight, random(64, 128))

    @pytest.mark.parametrize("value", [0.0, 0.75, -3.0])
    def test_equal_weights_are_exact(self, kind, value):
        weight = torch.full((16, 64), value)
        assert torch.allclose(packed(kind, weight)(torch.eye(64)[:4]), weight[:, :4].T, rtol=1e-6)

    def test_bytes(self, kind):
        with torch.device("meta"):
            layer = kind(128, 64, torch.bfloat16)
        size = sum(tensor.numel() * tensor.element_size() for tensor in layer.buffers())
        scales = {Int8Linear: 64 * 2, FbgemmInt8Linear: 64 * 4, Int4Linear: 2 * 64 * 2 * 2}
        assert size == 64 * 128 // (2 if kind is Int4Linear else 1) + scales[kind]


def test_int8_of_a_width_that_the_kernel_does_not_support():
    """24 inputs crash torch's kernel in bfloat16."""
    layer = packed(Int8Linear, random(48, 24), torch.bfloat16)
    vectors = random(3, 24, seed=1, dtype=torch.bfloat16)
    exact = vectors.float() @ layer.unpacked().float().T
    assert torch.allclose(layer(vectors).float(), exact, atol=0.02 * exact.abs().max().item())


@pytest.mark.parametrize("kind", KINDS)
class TestUnpacking:
    @pytest.mark.parametrize("shape", [(96, 128), (256 * 2 + 80, 64), (208, 4096)])  # the last in several blocks
    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
    def test_dequantized_weights_are_those_of_the_kernel(self, kind, shape, dtype):
        layer = packed(kind, random(*shape), dtype)
        columns = torch.arange(0, shape[1], shape[1] // 64)
        shown = layer(torch.eye(shape[1], dtype=dtype)[columns]).T
        # float32: the last bit. bfloat16: the kernel rounds the scaled levels to 8 bits of mantissa.
        rtol = 2**-7 if computes_in_bfloat16(kind, dtype) else 1e-6
        torch.testing.assert_close(layer.unpacked()[:, columns], shown, rtol=rtol, atol=rtol)

    @pytest.mark.parametrize("num_vectors", [3, 40])
    def test_gradients_are_those_of_a_linear_layer(self, kind, num_vectors):
        layer, vectors = packed(kind, random(96, 128)), random(num_vectors, 128, seed=1).requires_grad_()
        pull = random(num_vectors, 96, seed=2)
        (gradient,) = torch.autograd.grad(layer(vectors), vectors, pull)
        torch.testing.assert_close(gradient, pull @ layer.unpacked(), rtol=1e-5, atol=1e-5)


@given(st.integers(1, 4), st.integers(1, 5), st.integers(0, 2**16))
def test_int4_of_any_supported_size(num_groups, num_rows, seed):
    weight = random(16 * num_rows, 32 * num_groups, seed=seed)
    shown = packed(Int4Linear, weight)(torch.eye(32 * num_groups)).T
    step = (weight.amax() - weight.amin()) / LEVELS[Int4Linear]
    assert (shown - weight).abs().max() <= step / 2 + 0.01 * weight.abs().amax()


@pytest.mark.parametrize(("inputs", "outputs"), [(48, 64), (64, 24)])
def test_sizes_that_int4_does_not_support(inputs, outputs):
    with pytest.raises(
        ValueError,
        match=f"int4 does not support a layer with {inputs} inputs and {outputs} outputs.*multiples of 32 and 16.*int8",
    ):
        Int4Linear(inputs, outputs, torch.float32)
