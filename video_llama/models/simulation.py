"""Run a model without data: tensors that have a shape, a data type and a device, but no memory.

:func:`fake_tensors` is a context in which every operation returns such tensors (PyTorch's FakeTensorMode). Integers and
booleans of known value, such as token ids, keep their values beside the fake tensor, so that code which reads them
(counting placeholders) runs unchanged. :func:`simulated_device` registers a device that stands for a GPU: it takes the
paths of a GPU in PyTorch, transformers and this package, with the data types of CUDA's autocast.

Sources: torch.utils.backend_registration (a device implemented in Python); PyTorch's documentation of autocast (the
operations that CUDA runs in half precision and in float32).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.distributed.tensor import DTensor
from torch.utils import backend_registration
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_leaves, tree_map_only
from transformers import masking_utils

from video_llama.models.packed_linear import GROUP_SIZES, KernelLinear, Quantization
from video_llama.models.placement import put_tensor

SIMULATED = "sim"
"""Name of the simulated device."""
MAX_KNOWN_VALUES = 2**22
"""Tensors with more elements lose their values, to save time."""
UNKNOWN_SCALAR = 1.0
"""What reading a single number of unknown value gives, in the number's type: the loss, the norm of the gradient, a
generated token id, whether all logits are finite."""

aten = torch.ops.aten


# --- tensors without data, integers with values


class KnownIntegers(TorchDispatchMode):
    """Computes integers and booleans beside the fake tensors where all inputs are known."""

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if DTensor in types:  # its operations on local tensors are dispatched again
            return NotImplemented
        kwargs = kwargs or {}
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        if func is aten._local_scalar_dense.default:
            return _scalar(_known(tensors[0]), tensors[0].dtype)
        result = func(*args, **kwargs)
        if func is aten._amp_foreach_non_finite_check_and_unscale_.default:
            tensors[-2]._known = torch.zeros(())  # type: ignore[attr-defined]  # found_inf: all gradients are finite
        elif _may_be_known(result):
            values = [_known(tensor) for tensor in tensors]
            if all(value is not None for value in values):
                _attach(result, _computed(func, args, kwargs))
        return result


def _known(tensor: Tensor) -> Tensor | None:
    """Return the value of a tensor on the CPU, or None if it is unknown."""
    if isinstance(tensor, FakeTensor):
        return getattr(tensor, "_known", None)
    return tensor if _is_integer(tensor) or tensor.numel() == 1 else None


def _is_integer(tensor: Tensor) -> bool:
    return not tensor.is_floating_point() and not tensor.is_complex() and tensor.numel() <= MAX_KNOWN_VALUES


def _may_be_known(result: Any) -> bool:
    tensors = [leaf for leaf in tree_leaves(result) if isinstance(leaf, FakeTensor)]
    return bool(tensors) and all(map(_is_integer, tensors))


def _scalar(known: Tensor | None, dtype: torch.dtype) -> Any:
    if known is None:
        kind = bool if dtype is torch.bool else float if dtype.is_floating_point else int
        return kind(UNKNOWN_SCALAR)
    with _disable_current_modes():
        return known.item()


def _computed(func: Any, args: Any, kwargs: Any) -> Any:
    values = tree_map_only(Tensor, _known, (args, kwargs))
    values = tree_map_only(torch.device, lambda _: torch.device("cpu"), values)
    with _disable_current_modes():
        return func(*values[0], **values[1])


def _attach(result: Any, known: Any) -> None:
    for fake, value in zip(tree_leaves(result), tree_leaves(known), strict=True):
        if isinstance(fake, FakeTensor):
            fake._known = value  # type: ignore[attr-defined]


@contextmanager
def fake_tensors() -> Iterator[None]:
    """Make every new tensor a fake one. Real tensors may be arguments of operations; integers keep their values.

    Backward passes run in the calling thread: PyTorch creates its threads at the first backward pass of the process,
    one for each device that is registered by then.
    """
    calling_thread = torch.autograd.set_multithreading_enabled(False)
    with FakeTensorMode(allow_non_fake_inputs=True), KnownIntegers(), _cleared_casts(), _read_masks(), calling_thread:
        yield


@contextmanager
def _read_masks() -> Iterator[None]:
    """Let transformers read attention masks and positions, as without a simulation.

    For fake tensors it makes the mask of a compiled graph: a matrix even where the causal kernel needs none.
    """
    module: Any = masking_utils
    original = module.is_tracing
    module.is_tracing = lambda tensor=None: original()
    try:
        yield
    finally:
        module.is_tracing = original


def fill_with_fakes(model: nn.Module, device: torch.device) -> None:
    """Replace all tensors of a model on the meta device by fake ones on ``device``; call it in :func:`fake_tensors`."""
    made: dict[int, Tensor] = {}
    for name, tensor in [*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)]:
        if id(tensor) not in made:
            fake = torch.empty(tensor.shape, dtype=tensor.dtype, device=device)
            needs_gradient = tensor.requires_grad
            is_parameter = isinstance(tensor, nn.Parameter)
            made[id(tensor)] = nn.Parameter(fake, requires_grad=needs_gradient) if is_parameter else fake
        _put(model, name, made[id(tensor)])


def _put(model: nn.Module, name: str, tensor: Tensor) -> None:
    if isinstance(tensor, nn.Parameter):
        path, _, leaf = name.rpartition(".")
        model.get_submodule(path)._parameters[leaf] = tensor
    else:
        put_tensor(model, name, tensor)


# --- quantized layers of a GPU


class SimulatedLinear(KernelLinear):
    """The memory of a quantized layer on a GPU: 8-bit weights with a scale per row, or 4-bit weights (NF4) with a
    float32 scale for 64 weights. A product dequantizes the whole weight first."""

    def __init__(self, in_features: int, out_features: int, dtype: torch.dtype, quantization: Quantization) -> None:
        super().__init__(in_features, out_features)
        num_bytes, num_scales = in_features * out_features, out_features
        if quantization == "int4":
            num_bytes, num_scales = num_bytes // 2, num_bytes // GROUP_SIZES[0]
        self.register_buffer("weight", torch.empty(num_bytes, dtype=torch.uint8))
        self.register_buffer("scale", torch.empty(num_scales))
        self._dtype = dtype
        self.weight: Tensor
        self.scale: Tensor

    @property
    def compute_dtype(self) -> torch.dtype:
        return self._dtype

    def multiply(self, vectors_NI: Tensor) -> Tensor:
        return nn.functional.linear(vectors_NI, self.unpacked())

    def unpacked(self) -> Tensor:
        return torch.empty(self.out_features, self.in_features, dtype=self._dtype, device=self.weight.device)


def pack_simulated(decoder: nn.Module, quantization: Quantization, dtype: torch.dtype) -> None:
    """Replace the linear layers of a decoder on the meta device by simulated quantized ones."""
    for name, linear in [(name, module) for name, module in decoder.named_modules() if type(module) is nn.Linear]:
        with torch.device("meta"):
            packed = SimulatedLinear(linear.in_features, linear.out_features, dtype, quantization)
        decoder.set_submodule(name, packed)


# --- a device that stands for a GPU


def simulated_device() -> torch.device:
    """Register the simulated device, once per process, and return it.

    Raises RuntimeError if this version of PyTorch does not support devices implemented in Python.
    """
    _register()
    return torch.device(SIMULATED, 0)


@lru_cache(maxsize=1)
def _register() -> tuple[torch.library.Library, ...]:
    """Register the device and the operations below. The returned libraries keep them registered."""
    set_up = getattr(backend_registration, "_setup_privateuseone_for_python_backend", None)
    if set_up is None:
        raise RuntimeError(
            f"torch {torch.__version__} has no devices implemented in Python. Install a newer torch, or simulate a CPU."
        )
    set_up(SIMULATED, backend_module=_DeviceModule())
    fallback = torch.library.Library("_", "IMPL", "AutocastPrivateUse1")
    fallback.fallback(torch.library.fallthrough_kernel)
    autocast = torch.library.Library("aten", "IMPL", "AutocastPrivateUse1")
    for name in _HALF_PRECISION:
        autocast.impl(name, _autocast_kernel(name, _to_half))
    for name in _FULL_PRECISION:
        autocast.impl(name, _autocast_kernel(name, _to_float))
    attention = torch.library.Library("aten", "IMPL", "AutogradPrivateUse1")
    attention.impl("scaled_dot_product_attention", _attention)
    return fallback, autocast, attention


class _Stream:
    """A stream or event of the simulated device: everything has already happened."""

    stream_id = 0

    def __getattr__(self, name: str) -> Callable[..., Any]:
        return lambda *_args, **_kwargs: self


class _DeviceModule:
    """The functions of ``torch.sim`` that PyTorch calls, as ``torch.cuda`` has them."""

    def is_initialized(self) -> bool:
        return True

    _is_initialized = is_initialized

    def is_available(self) -> bool:
        return True

    def _is_in_bad_fork(self) -> bool:
        return False

    def current_device(self) -> int:
        return 0

    def device_count(self) -> int:
        return 1

    def set_device(self, device: Any) -> None:
        pass

    def synchronize(self, device: Any = None) -> None:
        pass

    def manual_seed_all(self, seed: int) -> None:
        pass

    def get_rng_state(self, device: Any = None) -> Tensor:
        return torch.empty(0, dtype=torch.uint8)

    def set_rng_state(self, state: Tensor, device: Any = None) -> None:
        pass

    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.bfloat16, torch.float16]

    def current_stream(self, device: Any = None) -> _Stream:
        return _Stream()

    def stream(self, stream: Any) -> AbstractContextManager[None]:
        return nullcontext()

    device = stream
    Stream = Event = staticmethod(lambda *_args, **_kwargs: _Stream())


# --- autocast of CUDA, and its fused attention

_HALF_PRECISION = (
    *("linear", "matmul", "mm", "bmm", "addmm", "baddbmm", "conv2d", "conv3d", "scaled_dot_product_attention"),
)
_FULL_PRECISION = (
    *("layer_norm", "softmax.int", "log_softmax.int", "cross_entropy_loss", "nll_loss", "rsqrt", "exp", "log"),
    *("pow.Tensor_Scalar", "cumsum", "sum", "sum.dim_IntList", "norm.ScalarOpt_dim"),
)
"""The operations of CUDA's lists that a training step of this model runs."""

_WITHOUT_AUTOCAST = torch._C.DispatchKeySet(torch._C.DispatchKey.AutocastPrivateUse1)  # type: ignore[attr-defined]
_casts: dict[int, tuple[Tensor, Tensor]] = {}
"""Cast weights by the id of the weight: as in PyTorch, a trainable float32 weight is cast once per autocast region."""


def _autocast_kernel(name: str, cast: Callable[[Tensor], Tensor]) -> Callable[..., Any]:
    packet, _, overload = name.partition(".")
    operation = getattr(getattr(aten, packet), overload or "default")

    def kernel(*args: Any, **kwargs: Any) -> Any:
        with torch._C._ExcludeDispatchKeyGuard(_WITHOUT_AUTOCAST):
            args, kwargs = tree_map_only(Tensor, cast, (args, kwargs))
            return operation(*args, **kwargs)

    return kernel


def _to_half(tensor: Tensor) -> Tensor:
    dtype = torch.get_autocast_dtype(SIMULATED)
    if not tensor.is_floating_point() or tensor.dtype in (dtype, torch.float64):
        return tensor
    is_cached = tensor.is_leaf and tensor.requires_grad and tensor.dtype is torch.float32
    if not is_cached or not torch.is_autocast_cache_enabled():
        return tensor.to(dtype)
    if id(tensor) not in _casts:
        _casts[id(tensor)] = (tensor, tensor.to(dtype))
    return _casts[id(tensor)][1]


def _to_float(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.dtype in (torch.bfloat16, torch.float16) else tensor


@contextmanager
def _cleared_casts() -> Iterator[None]:
    """Discard the cast weights where PyTorch does: at the end of the outermost autocast region."""
    clear = torch.clear_autocast_cache

    def clear_both() -> None:
        _casts.clear()
        clear()

    with ExitStack() as stack:
        torch.clear_autocast_cache = clear_both
        stack.callback(setattr, torch, "clear_autocast_cache", clear)
        stack.callback(_casts.clear)
        yield


def _attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    *,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """Fused attention: the output and one number per query are kept, never the matrix of attention weights."""
    if enable_gqa:
        groups = query.shape[-3] // key.shape[-3]
        key, value = key.repeat_interleave(groups, -3), value.repeat_interleave(groups, -3)
    bias = None
    if attn_mask is not None:
        bias = attn_mask.to(query.dtype).expand(*query.shape[:-1], key.shape[-2])
    output: Tensor = aten._scaled_dot_product_efficient_attention(
        query, key, value, bias, query.requires_grad, dropout_p, is_causal, scale=scale
    )[0]
    return output
