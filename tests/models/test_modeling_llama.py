"""Packed linear layers: as near to the float layer as their bits allow, whatever the shape, and refused where not."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from video_llama.errors import MissingExtraError
from video_llama.models.modeling_llama import is_packed, pack_linears, unpack_linears
from video_llama.models.packed_linear import Int4Linear, Int8Linear

CPU = torch.device("cpu")
LEVELS = {Int8Linear: 254, Int4Linear: 15}


def packed(kind, weight, dtype=torch.float32):
    out_features, in_features = weight.shape
    layer = kind(in_features, out_features, dtype)
    layer.pack(weight, CPU)
    return layer


def drawn(*shape, seed=0, dtype=torch.float32):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


@pytest.mark.parametrize("kind", [Int8Linear, Int4Linear])
class TestPacking:
    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
    @pytest.mark.parametrize("num_vectors", [1, 15, 16, 40])
    def test_every_weight_within_half_a_step(self, kind, dtype, num_vectors):
        """Multiplied by unit vectors a layer shows its weights; both of int8's ways, and int4's one, give them."""
        weight = drawn(96, 128)
        shown = packed(kind, weight, dtype)(torch.eye(128, dtype=dtype)[:num_vectors]).float().T
        span = 2 * weight.abs().amax() if kind is Int8Linear else weight.amax() - weight.amin()
        half_step = span / LEVELS[kind] / 2
        rounding = 0.01 * weight.abs().amax() if dtype is torch.bfloat16 else 1e-5  # 8 bits of mantissa, twice
        assert (shown - weight[:, :num_vectors]).abs().max() <= half_step + rounding

    def test_shapes(self, kind):
        layer = packed(kind, drawn(32, 64))
        assert layer(drawn(2, 3, 64)).shape == (2, 3, 32)
        assert layer(drawn(2, 30, 64)).shape == (2, 30, 32)

    def test_blocks_of_rows_are_one_matrix(self, kind):
        """More rows than are packed at once, and a rest: each row as if packed alone with its neighbours."""
        weight, vector = drawn(256 * 2 + 80, 1024), drawn(3, 1024, seed=1)
        whole = packed(kind, weight)(vector)
        halves = [packed(kind, weight[256:])(vector), packed(kind, weight[:256])(vector)]
        assert torch.allclose(whole, torch.cat(halves[::-1], dim=-1), atol=1e-4)

    def test_the_weight_is_left_as_it_is(self, kind):
        """It may be a mapped part of a file, or a model's own."""
        weight = drawn(64, 128)
        packed(kind, weight)
        assert torch.equal(weight, drawn(64, 128))

    @pytest.mark.parametrize("value", [0.0, 0.75, -3.0])
    def test_equal_weights_are_exact(self, kind, value):
        weight = torch.full((16, 64), value)
        assert torch.allclose(packed(kind, weight)(torch.eye(64)[:4]), weight[:, :4].T, rtol=1e-6)

    def test_bytes(self, kind):
        layer = packed(kind, drawn(64, 128), torch.bfloat16)
        size = sum(tensor.numel() * tensor.element_size() for tensor in layer.buffers())
        assert size == (64 * 128 + 64 * 2 if kind is Int8Linear else 64 * 128 // 2 + 2 * 64 * 2 * 2)


def test_int8_of_a_width_that_the_kernel_cannot_take():
    """24 inputs crash torch's kernel in bfloat16."""
    layer = packed(Int8Linear, drawn(48, 24), torch.bfloat16)
    vectors = drawn(3, 24, seed=1, dtype=torch.bfloat16)
    exact = vectors.float() @ layer.unpacked().float().T
    assert torch.allclose(layer(vectors).float(), exact, atol=0.02 * exact.abs().max().item())


@pytest.mark.parametrize("kind", [Int8Linear, Int4Linear])
class TestUnpacking:
    @pytest.mark.parametrize("shape", [(96, 128), (256 * 2 + 80, 64), (208, 4096)])  # the last in several blocks
    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
    def test_the_weights_are_those_that_the_kernel_multiplies(self, kind, shape, dtype):
        layer = packed(kind, drawn(*shape), dtype)
        columns = torch.arange(0, shape[1], shape[1] // 64)
        shown = layer(torch.eye(shape[1], dtype=dtype)[columns]).T
        # In float32 a last bit, in bfloat16 the kernel's own rounding of scaled levels: 8 bits of mantissa.
        rtol = 1e-6 if dtype is torch.float32 else 2**-7
        torch.testing.assert_close(layer.unpacked()[:, columns], shown, rtol=rtol, atol=rtol)

    @pytest.mark.parametrize("num_vectors", [3, 40])
    def test_gradients_are_those_of_a_linear_layer(self, kind, num_vectors):
        layer, vectors = packed(kind, drawn(96, 128)), drawn(num_vectors, 128, seed=1).requires_grad_()
        pull = drawn(num_vectors, 96, seed=2)
        (gradient,) = torch.autograd.grad(layer(vectors), vectors, pull)
        torch.testing.assert_close(gradient, pull @ layer.unpacked(), rtol=1e-5, atol=1e-5)

    def test_a_whole_decoder(self, kind):
        decoder = nn.ModuleDict({"mlp": packed(kind, drawn(32, 64))})
        before = decoder["mlp"](drawn(20, 64, seed=1))
        unpack_linears(decoder, torch.float32)
        assert type(decoder["mlp"]) is nn.Linear
        torch.testing.assert_close(decoder["mlp"](drawn(20, 64, seed=1)), before, rtol=1e-5, atol=1e-5)


@given(st.integers(1, 4), st.integers(1, 5), st.integers(0, 2**16))
def test_int4_of_any_size_that_it_takes(num_groups, num_rows, seed):
    weight = drawn(16 * num_rows, 32 * num_groups, seed=seed)
    shown = packed(Int4Linear, weight)(torch.eye(32 * num_groups)).T
    step = (weight.amax() - weight.amin()) / LEVELS[Int4Linear]
    assert (shown - weight).abs().max() <= step / 2 + 1e-5


@pytest.mark.parametrize(("inputs", "outputs"), [(48, 64), (64, 24)])
def test_sizes_without_a_4_bit_form(inputs, outputs):
    with pytest.raises(ValueError, match=f"{inputs} inputs and {outputs} outputs has no 4-bit form.* Use int8"):
        Int4Linear(inputs, outputs, torch.float32)


class TestReplacing:
    def decoder(self):
        with torch.device("meta"):
            return nn.ModuleDict({"mlp": nn.Linear(64, 32, bias=False), "norm": nn.LayerNorm(64)})

    def test_linear_layers_only(self):
        decoder = self.decoder()
        pack_linears(decoder, "int8", torch.bfloat16, CPU)
        assert isinstance(decoder["mlp"], Int8Linear)
        assert isinstance(decoder["norm"], nn.LayerNorm)
        assert decoder["mlp"].weight.is_meta
        assert decoder["mlp"].scale.dtype == torch.bfloat16
        assert is_packed(decoder)
        assert not is_packed(self.decoder())

    def test_another_device(self):
        with pytest.raises(ValueError, match="int4 has kernels for cpu and cuda, not for mps"):
            pack_linears(self.decoder(), "int4", torch.float32, torch.device("mps"))

    def test_cuda_needs_bitsandbytes(self):
        try:
            import bitsandbytes  # noqa: F401
        except ImportError:
            with pytest.raises(MissingExtraError, match=r"pip install 'video-llama\[quant\]'"):
                pack_linears(self.decoder(), "int8", torch.float16, torch.device("cuda"))
        else:
            pytest.skip("bitsandbytes is installed")
