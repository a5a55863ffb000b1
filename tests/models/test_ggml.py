"""ggml's product: the right numbers on any thread and for any memory, and errors that say what is missing."""

import subprocess
import sys
import threading

import pytest
import torch

from tests.models.test_packed_linear import random
from video_llama.errors import MissingExtraError
from video_llama.models import ggml as binding
from video_llama.models.ggml import GgmlError, ggml, has_ggml
from video_llama.models.q4_k_linear import dequantize, quantize

pytestmark = pytest.mark.skipif(not has_ggml(), reason="needs xllamacpp")

TOLERANCE = 0.02
"""Relative error of inputs rounded to 8 bits."""


def relative_error(found, expected):
    return float((found - expected).norm() / expected.norm())


@pytest.fixture(scope="module")
def weight():
    return quantize(random(48, 512))


@pytest.mark.parametrize("num_vectors", [1, 2, 7, 8, 9, 31, 32, 33, 200])
def test_products(weight, num_vectors):
    vectors = random(num_vectors, 512, seed=1)
    found = ggml().multiply(vectors, weight, 48)
    assert relative_error(found, vectors @ dequantize(weight).T) < TOLERANCE


def test_vectors_that_are_not_contiguous_or_aligned(weight):
    vectors = random(513, 6, seed=1)
    expected = vectors[1:].T @ dequantize(weight).T
    assert relative_error(ggml().multiply(vectors[1:].T, weight, 48), expected) < TOLERANCE
    shifted = random(1 + 2 * 512)[1:].view(2, 512)
    assert shifted.data_ptr() % 64
    assert relative_error(ggml().multiply(shifted, weight, 48), shifted @ dequantize(weight).T) < TOLERANCE


def test_no_vectors(weight):
    assert ggml().multiply(torch.empty(0, 512), weight, 48).shape == (0, 48)


@pytest.mark.parametrize(("inputs", "outputs"), [(256, 48), (512, 47), (500, 48)])
def test_sizes_that_do_not_agree(weight, inputs, outputs):
    with pytest.raises(ValueError, match=f"do not fit {inputs} inputs and {outputs} outputs"):
        ggml().multiply(torch.ones(1, inputs), weight, outputs)


def test_several_threads_at_once(weight):
    vectors = random(40, 512, seed=1)
    expected = ggml().multiply(vectors, weight, 48)
    found = []

    def work():
        for _ in range(50):
            found.append(torch.equal(ggml().multiply(vectors, weight, 48), expected))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 200
    assert all(found)


def test_the_number_of_threads_is_that_of_torch(weight):
    vectors, before = random(64, 512, seed=1), torch.get_num_threads()
    expected = ggml().multiply(vectors, weight, 48)
    try:
        for number in (2, 1):
            torch.set_num_threads(number)
            torch.testing.assert_close(ggml().multiply(vectors, weight, 48), expected)
    finally:
        torch.set_num_threads(before)


def test_a_process_that_used_it_ends_normally():
    code = (
        "import torch; from video_llama.models.ggml import ggml; from video_llama.models.q4_k_linear import quantize;"
        "print(ggml().multiply(torch.ones(1, 256), quantize(torch.ones(8, 256)), 8).mean().round().item())"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (result.returncode, result.stdout) == (0, "256.0\n"), result.stderr


@pytest.fixture
def fresh():
    """Load the library again in the test, and in the tests after it."""
    binding.ggml.cache_clear()
    yield
    binding.ggml.cache_clear()


def test_without_the_package(fresh, monkeypatch):
    monkeypatch.setattr(binding, "_library", lambda: None)
    with pytest.raises(MissingExtraError, match=r"xllamacpp is not installed.*video-llama\[ggml\]"):
        ggml()


def test_a_library_without_the_functions(fresh, monkeypatch):
    monkeypatch.setattr(binding, "_library", lambda: torch._C.__file__)
    with pytest.raises(GgmlError, match=r"ggml's functions cannot be loaded \(.*ggml_init.*\)\. Use int4 or int8"):
        ggml()


def test_another_numbering_of_types(fresh, monkeypatch):
    monkeypatch.setattr(binding, "Q4_K", 2)
    with pytest.raises(GgmlError, match=r"type 2 is b'q4_0' with 144 bytes, not Q4_K. Install xllamacpp 2026.10"):
        ggml()
