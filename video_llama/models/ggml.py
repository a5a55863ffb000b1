"""ggml's product of quantized weights and float32 vectors, from the shared library of the package ``xllamacpp``.

xllamacpp is llama.cpp, prebuilt. Its Python API runs whole models on text and accepts no embeddings, so a few of ggml's
C functions are called directly. They work on torch's memory: weights are not copied. When the library is loaded, the
number and the size of the type Q4_K are compared with those expected here.
"""

# O outputs, I inputs, N input vectors

from __future__ import annotations

import ctypes
import importlib.util
import threading
from collections.abc import Callable
from ctypes import c_bool, c_char_p, c_int, c_int64, c_size_t, c_void_p
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from video_llama.errors import MissingExtraError, VideoLlamaError
from video_llama.models.cpu import processor

FLOAT32, Q4_K = 0, 12
"""Numbers of ggml's types."""
Q4_K_WEIGHTS, Q4_K_BYTES = 256, 144
"""A block of Q4_K: its weights and its bytes."""

_ALIGNMENT = 64
_GRAPH_NODES = 8
_NUM_TENSORS = 3


class _InitParams(ctypes.Structure):
    _fields_ = [("mem_size", c_size_t), ("mem_buffer", c_void_p), ("no_alloc", c_bool)]


_FUNCTIONS: dict[str, tuple[Any, ...]] = {  # name -> result and arguments
    "ggml_init": (c_void_p, _InitParams),
    "ggml_free": (None, c_void_p),
    "ggml_type_name": (c_char_p, c_int),
    "ggml_row_size": (c_size_t, c_int, c_int64),
    "ggml_tensor_overhead": (c_size_t,),
    "ggml_graph_overhead_custom": (c_size_t, c_size_t, c_bool),
    "ggml_new_tensor_2d": (c_void_p, c_void_p, c_int, c_int64, c_int64),
    "ggml_mul_mat": (c_void_p, c_void_p, c_void_p, c_void_p),
    "ggml_new_graph_custom": (c_void_p, c_void_p, c_size_t, c_bool),
    "ggml_build_forward_expand": (None, c_void_p, c_void_p),
    "ggml_backend_cpu_init": (c_void_p,),
    "ggml_backend_cpu_set_n_threads": (None, c_void_p, c_int),
    "ggml_backend_cpu_buffer_from_ptr": (c_void_p, c_void_p, c_size_t),
    "ggml_backend_buffer_free": (None, c_void_p),
    "ggml_backend_tensor_alloc": (c_int, c_void_p, c_void_p, c_void_p),
    "ggml_backend_graph_compute": (c_int, c_void_p, c_void_p),
    "ggml_backend_free": (None, c_void_p),
    "ggml_cpu_has_avx2": (c_int,),
}


class GgmlError(VideoLlamaError):
    """The installed xllamacpp has no usable ggml."""


class _Backend:
    """ggml's CPU backend. It has a buffer for its products, so each thread has its own."""

    def __init__(self, functions: dict[str, Callable[..., Any]]) -> None:
        self.pointer, self._free = functions["ggml_backend_cpu_init"](), functions["ggml_backend_free"]

    def __del__(self) -> None:
        self._free(self.pointer)


class Ggml:
    """The loaded library."""

    def __init__(self, functions: dict[str, Callable[..., Any]]) -> None:
        self._functions = functions
        self._of_thread = threading.local()
        overhead = functions["ggml_tensor_overhead"]()
        self._context_bytes = _NUM_TENSORS * overhead + functions["ggml_graph_overhead_custom"](_GRAPH_NODES, False)

    def multiply(self, vectors_NI: Tensor, weight: Tensor) -> Tensor:
        """Return the product of float32 vectors [N, I] and Q4_K weights, uint8 [O, bytes of a row]: float32 [N, O].

        ggml rounds the vectors to 8 bits, with one scale per 256 inputs. Raises ValueError for tensors of other types,
        devices or sizes, for which ggml would end the process.
        """
        _check(vectors_NI, weight)
        call = self._functions
        vectors_NI, weight = _aligned(vectors_NI), _aligned(weight)
        num_outputs, (num_vectors, num_inputs) = len(weight), vectors_NI.shape
        output_NO = torch.empty(num_vectors, num_outputs, device="cpu")
        context = call["ggml_init"](_InitParams(self._context_bytes, None, True))
        buffers = []

        def placed(tensor: Any, memory: Tensor) -> None:
            buffers.append(call["ggml_backend_cpu_buffer_from_ptr"](memory.data_ptr(), memory.nbytes))
            call["ggml_backend_tensor_alloc"](buffers[-1], tensor, memory.data_ptr())

        try:
            left = call["ggml_new_tensor_2d"](context, Q4_K, num_inputs, num_outputs)
            right = call["ggml_new_tensor_2d"](context, FLOAT32, num_inputs, num_vectors)
            product = call["ggml_mul_mat"](context, left, right)
            placed(left, weight)
            placed(right, vectors_NI)
            placed(product, output_NO)
            graph = call["ggml_new_graph_custom"](context, _GRAPH_NODES, False)
            call["ggml_build_forward_expand"](graph, product)
            status = call["ggml_backend_graph_compute"](self._backend(), graph)
        finally:
            for buffer in buffers:
                call["ggml_backend_buffer_free"](buffer)
            call["ggml_free"](context)
        if status != 0:
            raise GgmlError(f"ggml could not compute a product of {num_vectors} vectors (status {status}).")
        return output_NO

    def _backend(self) -> Any:
        if not hasattr(self._of_thread, "backend"):
            self._of_thread.backend, self._of_thread.num_threads = _Backend(self._functions), 0
        if self._of_thread.num_threads != torch.get_num_threads():
            self._of_thread.num_threads = torch.get_num_threads()
            self._functions["ggml_backend_cpu_set_n_threads"](
                self._of_thread.backend.pointer, self._of_thread.num_threads
            )
        return self._of_thread.backend.pointer


def _check(vectors_NI: Tensor, weight: Tensor) -> None:
    for name, tensor, dtype in (("vectors", vectors_NI, torch.float32), ("weights", weight, torch.uint8)):
        if (tensor.dtype, tensor.device.type, tensor.dim()) != (dtype, "cpu", 2):
            raise ValueError(
                f"{name} are {tensor.dim()}-dimensional {tensor.dtype} on {tensor.device}, not {dtype} on cpu"
            )
    num_inputs = vectors_NI.shape[1]
    if num_inputs % Q4_K_WEIGHTS or weight.shape[1] != num_inputs // Q4_K_WEIGHTS * Q4_K_BYTES:
        raise ValueError(f"weights {tuple(weight.shape)} do not fit {num_inputs} inputs")


def _aligned(tensor: Tensor) -> Tensor:
    """Return a contiguous tensor at an address that ggml accepts."""
    tensor = tensor.contiguous()
    return tensor if tensor.data_ptr() % _ALIGNMENT == 0 else tensor.clone()


@lru_cache(maxsize=1)
def ggml() -> Ggml:
    """Load the library. Raises MissingExtraError without xllamacpp, GgmlError if its ggml cannot be used."""
    if importlib.util.find_spec("xllamacpp") is None:
        raise MissingExtraError("xllamacpp", "ggml")
    path = _library()
    if path is None:
        raise GgmlError("xllamacpp is installed, but contains no shared library (.so). Use int4 or int8.")
    try:
        library = ctypes.CDLL(str(path))
        functions = {name: _typed(library, name, *types) for name, types in _FUNCTIONS.items()}
    except (OSError, AttributeError) as error:
        raise GgmlError(f"{path}: ggml's functions cannot be loaded ({error}). Use int4 or int8.") from error
    name, size = functions["ggml_type_name"](Q4_K), functions["ggml_row_size"](Q4_K, Q4_K_WEIGHTS)
    if (name, size) != (b"q4_K", Q4_K_BYTES):
        raise GgmlError(f"{path}: type {Q4_K} is {name!r} with {size} bytes, not Q4_K. Install xllamacpp 2026.10.")
    if functions["ggml_cpu_has_avx2"]() and not _runs_avx2():
        raise GgmlError(f"{path} requires AVX2, which {processor().name} does not have. Use int4 or int8.")
    return Ggml(functions)


def has_ggml() -> bool:
    """Return whether xllamacpp is installed for this machine."""
    return _library() is not None and (_runs_avx2() or "neon" in processor().instruction_sets)


def _runs_avx2() -> bool:
    return "avx2" in processor().instruction_sets


def _typed(library: ctypes.CDLL, name: str, result: Any, *arguments: Any) -> Callable[..., Any]:
    function = getattr(library, name)
    function.restype, function.argtypes = result, list(arguments)
    return function  # type: ignore[no-any-return]


@lru_cache(maxsize=1)
def _library() -> Path | None:
    """Return the extension module of xllamacpp. It is not imported."""
    package = importlib.util.find_spec("xllamacpp")
    if package is None or package.origin is None:
        return None
    files = sorted(Path(package.origin).parent.glob("xllamacpp*.so"))
    return files[0] if files else None
