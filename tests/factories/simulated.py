"""Models of the published sizes on a simulated accelerator, and a count of what would wait for the device.

See ``video_llama/models/simulation.py``. What does not work on a device that is implemented in Python is replaced here:
``torch.tensor(..., device=...)`` (also used by transformers' cache) and a list as an index become copies of a tensor on
the CPU, and ``torch.Generator(device)`` a generator of the CPU.
"""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_leaves

from video_llama.checkpoints.building import _compute_buffers, _dispatch, _run_on_cpu
from video_llama.models.configuration import VideoLlamaConfig
from video_llama.models.memory import published_config
from video_llama.models.placement import (
    LoadOptions,
    device_of,
    empty_model,
    main_device,
    put_tensor,
    resolve_device_map,
    resolve_placing,
)
from video_llama.models.simulation import SIMULATED, fake_tensors, fill_with_fakes, pack_simulated, simulated_device
from video_llama.models.video_llama import VideoLlamaForConditionalGeneration

OWN_PROCESS = pytest.mark.skipif(
    "VIDEO_LLAMA_SIMULATED" not in os.environ,
    reason="test_simulated_process.py runs it in a process of its own, because the simulation changes later tests",
)


def device_or_skip() -> torch.device:
    """Return the simulated device; skip the module with an older torch."""
    try:
        return simulated_device()
    except RuntimeError as error:
        pytest.skip(str(error), allow_module_level=True)


NUM_LAYERS = 2
"""Number of layers of each stack, to save time: they are alike, but for cross-attention in every second one of a
Q-Former."""
STACKS = (
    *("vision_config", "qformer_config", "video_qformer_config", "audio_qformer_config"),
    *("imagebind_audio_config", "imagebind_vision_config", "text_config"),
)

aten = torch.ops.aten
READS = {aten._local_scalar_dense.default, aten.nonzero.default, aten.masked_select.default, aten.equal.default}
"""Operations that return a number to the CPU, or a tensor whose size depends on data."""
COPIES = {aten._to_copy.default, aten.copy_.default}


def simulated_config(size: str, *, num_layers: int | None = NUM_LAYERS, **values: Any) -> VideoLlamaConfig:
    """Return a published configuration with ``num_layers`` in each large stack; None keeps their depth."""
    config = published_config(size)
    for name, value in values.items():
        setattr(config, name, value)
    if num_layers is not None:
        for name in STACKS:
            getattr(config, name).num_hidden_layers = num_layers
        config.text_config.layer_types = None
    return config


def simulated_model(
    config: VideoLlamaConfig, options: Mapping[str, Any] | None = None
) -> VideoLlamaForConditionalGeneration:
    """Return a model without data, placed as ``video_llama.load`` does with ``options``, on the simulated device
    unless they have another one.

    Call it in :func:`simulation`. On the simulated device, quantized layers are simulated ones.
    """
    placing = resolve_placing("bfloat16", LoadOptions(**{"device": simulated_device(), **(options or {})}))
    is_simulated = placing.quantization is not None and _is_simulated(placing.device)
    model = empty_model(config, replace(placing, quantization=None) if is_simulated else placing)
    if is_simulated:
        assert placing.quantization is not None
        pack_simulated(model.model.language_model.layers, placing.quantization, placing.dtypes["decoder"])
    fill_with_fakes(model, placing.device)
    _compute_buffers(model, placing.device)
    device_map = resolve_device_map(model, placing)
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        if tensor.device != torch.device(device_of(name, device_map)):
            put_tensor(model, name, torch.empty_like(tensor, device=device_of(name, device_map)))
    if placing.device_map is not None:
        _compute_buffers(model, main_device(device_map))
        _dispatch(model, device_map, {})
    elif placing.is_vit_on_cpu:
        _run_on_cpu(model.model.frame_encoder.vision_model)
    return model.eval()


@contextmanager
def simulation() -> Iterator[None]:
    """Make every new tensor one without data, on any device."""
    with (
        fake_tensors(),
        mock.patch.object(torch, "tensor", _tensor(torch.tensor)),
        mock.patch.object(torch, "Generator", _generator(torch.Generator)),
        mock.patch.object(FakeTensor, "__getitem__", _with_tensors(Tensor.__getitem__)),
        mock.patch.object(FakeTensor, "__setitem__", _with_tensors(Tensor.__setitem__)),
    ):
        yield


def _is_simulated(device: Any) -> bool:
    return device is not None and torch.device(device).type == SIMULATED


def _tensor(original: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def tensor(data: Any, *args: Any, device: Any = None, **kwargs: Any) -> Tensor:
        if not _is_simulated(device):
            return original(data, *args, device=device, **kwargs)
        with _disable_current_modes():  # constants of a FakeTensorMode would be copied with data
            value = original(data, *args, **kwargs)
        fake: Any = torch.empty(value.shape, dtype=value.dtype)
        fake._known = value
        return fake.to(device)  # type: ignore[no-any-return]

    return tensor


def _with_tensors(original: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function that indexes a tensor with tensors in place of lists."""

    def at(tensor: Tensor, index: Any, *value: Any) -> Any:
        parts = index if isinstance(index, tuple) else (index,)
        if any(isinstance(part, list) for part in parts):
            index = tuple(
                torch.tensor(part, device=tensor.device) if isinstance(part, list) else part for part in parts
            )
        return original(tensor, index, *value)

    return at


def _generator(original: Callable[..., Any]) -> Callable[..., Any]:
    return lambda device="cpu": original("cpu" if _is_simulated(device) else device)


class Waits(TorchDispatchMode):
    """Counts, by the function that causes them, the places where the CPU waits for the simulated device.

    ``reads`` are numbers and tensors that are copied to the CPU; ``tolist`` counts once. ``uploads`` are copies from
    the CPU, which wait for earlier work too, since the memory is not pinned.
    """

    def __init__(self) -> None:
        super().__init__()
        self.reads: Counter[str] = Counter()
        self.uploads: Counter[str] = Counter()
        self._is_counting = True
        self._patch = mock.patch.object(FakeTensor, "tolist", self._tolist(FakeTensor.tolist))

    def __enter__(self) -> Waits:
        self._patch.start()
        super().__enter__()
        return self

    def __exit__(self, *args: Any) -> None:
        super().__exit__(*args)
        self._patch.stop()

    def clear(self) -> None:
        """Set all counts to 0."""
        self.reads.clear()
        self.uploads.clear()

    def _tolist(self, original: Callable[[Tensor], Any]) -> Callable[[Tensor], Any]:
        def tolist(tensor: Tensor) -> Any:
            if tensor.device.type == SIMULATED and self._is_counting:
                self.reads[_caller()] += 1
            before, self._is_counting = self._is_counting, False
            try:
                return original(tensor)
            finally:
                self._is_counting = before

        return tolist

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if self._is_counting:
            self._count(func, [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)], result)
        return result

    def _count(self, func: Any, tensors: Sequence[Tensor], result: Any) -> None:
        places = [tensor.device.type for tensor in tensors]
        if func in READS and SIMULATED in places:
            self.reads[_caller()] += 1
        elif func is aten.index.Tensor and any(each.dtype is torch.bool for each in tensors[1:]):
            self.reads[_caller()] += SIMULATED in places
        elif func in COPIES:
            source = places[-1] if func is aten.copy_.default else places[0]
            if (source, result.device.type) == (SIMULATED, "cpu"):
                self.reads[_caller()] += 1
            elif (source, result.device.type) == ("cpu", SIMULATED) and result.numel() > 0:
                self.uploads[_caller()] += 1


def _caller() -> str:
    """Return "module.function" of the innermost function of this package or of transformers."""
    frame: Any = sys._getframe(1)
    while frame is not None:
        path = Path(frame.f_code.co_filename)
        if {"video_llama", "transformers"} & set(path.parts) and path.stem not in ("simulation", "simulated"):
            return f"{path.stem}.{frame.f_code.co_name}"
        frame = frame.f_back
    return "test"
