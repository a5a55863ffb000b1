"""Quantize the linear layers of a decoder, and restore them."""

import pytest
import torch
from torch import nn

from video_llama.errors import MissingExtraError
from video_llama.models.cpu import processor
from video_llama.models.fbgemm_linear import FbgemmInt8Linear
from video_llama.models.modeling_llama import is_packed, pack_linears, unpack_linears
from video_llama.models.packed_linear import Int4Linear, Int8Linear, PackedLinear

CPU = torch.device("cpu")


class TestPacking:
    def decoder(self):
        with torch.device("meta"):
            return nn.ModuleDict({"mlp": nn.Linear(64, 32, bias=False), "norm": nn.LayerNorm(64)})

    def test_linear_layers_only(self):
        decoder = self.decoder()
        pack_linears(decoder, "int8", torch.bfloat16, CPU)
        assert isinstance(decoder["mlp"], FbgemmInt8Linear if processor().has_fbgemm else Int8Linear)
        assert isinstance(decoder["norm"], nn.LayerNorm)
        assert decoder["mlp"].weight.is_meta
        assert decoder["mlp"].compute_dtype == torch.bfloat16
        assert is_packed(decoder)
        assert not is_packed(self.decoder())

    def test_another_device(self):
        with pytest.raises(ValueError, match="int4 is supported on cpu and cuda, not on mps"):
            pack_linears(self.decoder(), "int4", torch.float32, torch.device("mps"))
        with pytest.raises(ValueError, match=r"q4_k is supported on cpu, not on cuda. Use int4"):
            pack_linears(self.decoder(), "q4_k", torch.float32, torch.device("cuda"))

    def test_a_layer_with_a_bias(self):
        with torch.device("meta"):
            decoder = nn.ModuleDict({"mlp": nn.Linear(64, 32)})
        with pytest.raises(ValueError, match="mlp has a bias, which quantized layers do not support"):
            pack_linears(decoder, "int8", torch.float32, CPU)

    def test_cuda_needs_bitsandbytes(self):
        try:
            import bitsandbytes  # noqa: F401
        except ImportError:
            with pytest.raises(MissingExtraError, match=r"pip install 'video-llama\[quant\]'"):
                pack_linears(self.decoder(), "int8", torch.float16, torch.device("cuda"))
        else:
            pytest.skip("bitsandbytes is installed")


@pytest.mark.parametrize("kind", [Int8Linear, Int4Linear])
def test_unpacking_restores_linear_layers(kind):
    generator = torch.Generator().manual_seed(0)
    packed: PackedLinear = kind(64, 32, torch.float32)
    packed.pack(torch.randn(32, 64, generator=generator), CPU)
    decoder = nn.ModuleDict({"mlp": packed})
    vectors = torch.randn(20, 64, generator=generator)
    before = decoder["mlp"](vectors)
    unpack_linears(decoder, torch.float32)
    assert type(decoder["mlp"]) is nn.Linear
    assert not is_packed(decoder)
    rtol = 0.05 if kind is Int4Linear else 1e-5  # the int4 kernel computes in bfloat16
    torch.testing.assert_close(decoder["mlp"](vectors), before, rtol=rtol, atol=rtol)
