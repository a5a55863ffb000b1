"""ggml's product: the right numbers on any thread and for any memory, and errors that say what is missing."""

import subprocess
import sys
import threading

import pytest
import torch

from tests.models.test_packed_linear import random
from video_llama.errors import MissingExtraError
from video_llama.models import ggml as binding
from video_llama.models.cpu import Processor
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
    found = ggml().multiply(vectors, weight)
    assert relative_error(found, vectors @ dequantize(weight).T) < TOLERANCE


def test_vectors_that_are_not_contiguous_or_aligned(weight):
    vectors = random(513, 6, seed=1)
    expected = vectors[1:].T @ dequantize(weight).T
    assert relative_error(ggml().multiply(vectors[1:].T, weight), expected) < TOLERANCE
    shifted = random(1 + 2 * 512)[1:].view(2, 512)
    assert shifted.data_ptr() % 64
    assert relative_error(ggml().multiply(shifted, weight), shifted @ dequantize(weight).T) < TOLERANCE


def test_no_vectors(weight):
    assert ggml().multiply(torch.empty(0, 512), weight).shape == (0, 48)


@pytest.mark.parametrize(
    ("vectors", "message"),
    [
        (torch.ones(1, 256), "do not fit 256 inputs"),
        (torch.ones(1, 500), "do not fit 500 inputs"),
        (torch.ones(512), "vectors are 1-dimensional"),
        (torch.ones(1, 512, dtype=torch.float64), "torch.float64 on cpu"),
        (torch.ones(1, 512, device="meta"), "torch.float32 on meta"),
    ],
)
def test_vectors_for_which_ggml_would_end_the_process(weight, vectors, message):
    with pytest.raises(ValueError, match=message):
        ggml().multiply(vectors, weight)


def test_weights_for_which_ggml_would_end_the_process(weight):
    vectors = random(2, 512, seed=1)
    expected = ggml().multiply(vectors, weight)
    shifted = torch.empty(weight.numel() + 1, dtype=torch.uint8)[1:].view(weight.shape).copy_(weight)
    assert torch.equal(ggml().multiply(vectors, shifted), expected)
    assert torch.equal(ggml().multiply(vectors, weight.T.contiguous().T), expected)
    with torch.device("meta"):
        assert torch.equal(ggml().multiply(vectors, weight), expected)
    with pytest.raises(ValueError, match=r"weights are 2-dimensional torch.int8 on cpu"):
        ggml().multiply(vectors, weight.to(torch.int8))


def test_several_threads_at_once(weight):
    vectors = random(40, 512, seed=1)
    expected = ggml().multiply(vectors, weight)
    found = []

    def work():
        for _ in range(50):
            found.append(torch.equal(ggml().multiply(vectors, weight), expected))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 200
    assert all(found)


def test_the_number_of_threads_is_that_of_torch(weight, monkeypatch):
    vectors, before, library = random(64, 512, seed=1), torch.get_num_threads(), ggml()
    expected, numbers = library.multiply(vectors, weight), []
    set_number = library._functions["ggml_backend_cpu_set_n_threads"]

    def recorded(backend, number):
        numbers.append(number)
        set_number(backend, number)

    monkeypatch.setitem(library._functions, "ggml_backend_cpu_set_n_threads", recorded)
    try:
        for number in (before + 1, before + 1, 1):
            torch.set_num_threads(number)
            torch.testing.assert_close(library.multiply(vectors, weight), expected)
    finally:
        torch.set_num_threads(before)
    assert numbers == [before + 1, 1]


def test_a_process_that_used_it_ends_normally():
    code = (
        "import torch; from video_llama.models.ggml import ggml; from video_llama.models.q4_k_linear import quantize;"
        "print(ggml().multiply(torch.ones(1, 256), quantize(torch.ones(8, 256))).mean().round().item())"
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
    monkeypatch.setattr(binding.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"xllamacpp is not installed.*video-llama\[ggml\]"):
        ggml()


def test_a_package_without_a_library(fresh, monkeypatch):
    monkeypatch.setattr(binding, "_library", lambda: None)
    with pytest.raises(GgmlError, match=r"contains no shared library \(.so\)"):
        ggml()


def test_a_processor_without_avx2(fresh, monkeypatch):
    monkeypatch.setattr(binding, "processor", lambda: Processor("an old CPU", (), has_bfloat16=False, has_fbgemm=False))
    assert not has_ggml()
    with pytest.raises(GgmlError, match="requires AVX2, which an old CPU does not have"):
        ggml()


def test_a_library_without_the_functions(fresh, monkeypatch):
    monkeypatch.setattr(binding, "_library", lambda: torch._C.__file__)
    with pytest.raises(GgmlError, match=r"ggml's functions cannot be loaded \(.*ggml_init.*\)\. Use int4 or int8"):
        ggml()


def test_another_numbering_of_types(fresh, monkeypatch):
    monkeypatch.setattr(binding, "Q4_K", 2)
    with pytest.raises(GgmlError, match=r"type 2 is b'q4_0' with 144 bytes, not Q4_K. Install xllamacpp 2026.10"):
        ggml()
