"""Products with dequantized panels of 4-bit weights: those of the whole dequantized matrix, for any size."""

from functools import partial

import pytest
import torch

from tests.models.test_packed_linear import packed, random
from video_llama.models import int4_layout, packed_linear
from video_llama.models.cpu import Processor, processor
from video_llama.models.int4_layout import has_panels, multiply_panels, multiply_transposed_panels, pack_levels, unpack
from video_llama.models.packed_linear import Int4Linear

SHAPES = [(64, 32), (192, 128), (320, 4096), (4096, 96)]
"""One block, a few, several panels, and groups of 32."""

ROWS = torch.zeros(64, 16, dtype=torch.uint8)

x86 = pytest.mark.skipif(not processor().has_fbgemm, reason="the order of other processors is not known")


@x86
def test_torch_stores_blocks():
    assert has_panels(ROWS)
    assert not has_panels(ROWS[:48])


@pytest.mark.skipif(not has_panels(ROWS), reason="torch stores no blocks on this processor")
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("num_vectors", [1, 50])
def test_products_are_those_of_the_dequantized_weights(shape, num_vectors):
    layer, vectors = packed(Int4Linear, random(*shape)), random(num_vectors, shape[1], seed=1)
    product = multiply_panels(vectors, layer.weight, layer.scale_and_offset)
    torch.testing.assert_close(product, vectors @ layer.unpacked().T, rtol=1e-5, atol=1e-3)
    gradient = random(num_vectors, shape[0], seed=2)
    found = multiply_transposed_panels(gradient, layer.weight, layer.scale_and_offset)
    torch.testing.assert_close(found, gradient @ layer.unpacked(), rtol=1e-5, atol=1e-3)


@pytest.mark.parametrize("shape", SHAPES)
def test_every_level_is_dequantized_to_its_own_output_and_input(shape):
    """Scale 1 and offset 8 return the levels. Sixteen random levels are in every piece."""
    levels = torch.randint(0, 16, shape, generator=torch.Generator().manual_seed(0), dtype=torch.int32)
    scales = torch.tensor([1.0, 8.0]).expand(shape[1] // 32, shape[0], 2).bfloat16()
    assert torch.equal(unpack(pack_levels(levels), scales, torch.float32), levels.float())


@pytest.mark.parametrize("shape", SHAPES)
def test_an_order_without_blocks_gives_the_same_weights(shape, monkeypatch):
    layer = packed(Int4Linear, random(*shape))
    expected = layer.unpacked()
    monkeypatch.setattr(int4_layout, "_blocks", lambda: None)
    assert not has_panels(ROWS)
    torch.testing.assert_close(layer.unpacked(), expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("num_threads", [1, 2])
def test_the_number_of_threads_does_not_matter(num_threads):
    before = torch.get_num_threads()
    layer, vectors = packed(Int4Linear, random(640, 512)), random(50, 512, seed=1)
    exact = vectors @ layer.unpacked().T
    torch.set_num_threads(num_threads)
    try:
        torch.testing.assert_close(layer(vectors), exact, rtol=0, atol=2e-2 * exact.abs().max().item())
    finally:
        torch.set_num_threads(before)


@pytest.mark.skipif(not has_panels(ROWS), reason="torch stores no blocks on this processor")
@pytest.mark.parametrize(("has_bfloat16", "tolerance"), [(False, 1e-5), (True, 1e-2)])
def test_panels_are_used_for_many_vectors_without_bfloat16_units(has_bfloat16, tolerance, monkeypatch):
    """The panels compute in float32, torch's kernel in bfloat16."""
    cpu = Processor("test", ("avx2",), has_bfloat16=has_bfloat16, has_fbgemm=True)
    monkeypatch.setattr(packed_linear, "processor", lambda: cpu)
    layer = packed(Int4Linear, random(128, 256))
    error = partial(_error, layer)
    assert error(packed_linear.INT4_UNPACK_FROM) < tolerance
    assert error(packed_linear.INT4_UNPACK_FROM - 1) < 1e-2
    assert (error(packed_linear.INT4_UNPACK_FROM) > 1e-5) is has_bfloat16


def _error(layer, num_vectors):
    vectors = random(num_vectors, layer.in_features, seed=1)
    exact = vectors @ layer.unpacked().T
    return float((layer(vectors) - exact).norm() / exact.norm())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("num_vectors", [3, 50])
def test_autocast(dtype, num_vectors):
    layer = packed(Int4Linear, random(128, 256), dtype)
    vectors = random(num_vectors, 256, seed=1, dtype=dtype)
    with torch.no_grad():
        expected = layer(vectors)
    with torch.autocast("cpu", torch.bfloat16):
        assert _relative(layer(vectors).detach(), expected) < 0.02
        product = layer(vectors.requires_grad_())
    assert _relative(product.detach(), expected) < 0.02
    pull = random(num_vectors, 128, seed=2)
    (gradient,) = torch.autograd.grad(product, vectors, pull.to(product.dtype))
    assert _relative(gradient, pull @ layer.unpacked().float()) < 0.02


def _relative(found, expected):
    return float((found.float() - expected.float()).norm() / expected.float().norm())
