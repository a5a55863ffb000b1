"""Record the memory that operations allocate and free, by reading the storages of their results.

It works for real tensors and for fake ones (``simulation.py``). Memory that an operation uses internally and frees
before it returns is not seen.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor
from torch.distributed.tensor import DTensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

ALIGNMENT = 512
"""PyTorch's CUDA allocator rounds sizes up to a multiple of this."""
OTHER = "activations"


@dataclass(slots=True, eq=False)
class Block:
    """An allocation: its size in bytes, its first and last operation, and the kind of its content."""

    size: int
    first: int
    last: int | None = None
    kind: str = OTHER


class AllocationTracker(TorchDispatchMode):
    """Records every storage of a device type that is created or resized while the mode is active."""

    def __init__(self, device_type: str) -> None:
        super().__init__()
        self.device_type = device_type
        self.blocks: list[Block] = []
        self.num_operations = 0
        self._live: dict[int, tuple[Block, weakref.ref[torch.UntypedStorage]]] = {}
        self._resize = torch.UntypedStorage.resize_

    def __enter__(self) -> AllocationTracker:
        tracker, resize = self, self._resize

        def resize_(storage: torch.UntypedStorage, size: int) -> torch.UntypedStorage:
            resize(storage, size)
            tracker._see(storage)
            return storage

        torch.UntypedStorage.resize_ = resize_  # type: ignore[method-assign, assignment]
        super().__enter__()
        return self

    def __exit__(self, *details: Any) -> None:
        super().__exit__(*details)
        torch.UntypedStorage.resize_ = self._resize  # type: ignore[method-assign]

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if DTensor in types:  # its operations on local tensors are dispatched again
            return NotImplemented
        result = func(*args, **(kwargs or {}))
        self.num_operations += 1
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor) and _device_type(leaf) == self.device_type:
                self._see(leaf.untyped_storage())
        return result

    def mark(self, tensors: Iterable[Tensor], kind: str) -> None:
        """Set the kind of the blocks of ``tensors``, which are recorded if they were unknown."""
        for tensor in tensors:
            local = tensor.to_local() if isinstance(tensor, DTensor) else tensor
            if _device_type(local) == self.device_type:
                block = self._see(local.untyped_storage())
                if block is not None:
                    block.kind = kind

    def mark_rest(self, kind: str) -> None:
        """Set the kind of all live blocks that have none yet."""
        for block, _ in self._live.values():
            if block.kind == OTHER:
                block.kind = kind

    def peak(self, first: int = 0) -> dict[str, int]:
        """Return the bytes by kind at the moment of the largest total from operation ``first`` on."""
        changes: dict[int, int] = {}
        for block in self.blocks:
            if block.last is None or block.last >= first:
                start = max(block.first, first)
                changes[start] = changes.get(start, 0) + block.size
                if block.last is not None:
                    changes[block.last + 1] = changes.get(block.last + 1, 0) - block.size
        total, largest, moment = 0, -1, first
        for operation in sorted(changes):
            total += changes[operation]
            if total > largest:
                largest, moment = total, operation
        kinds: dict[str, int] = {}
        for block in self.blocks:
            if block.first <= moment and (block.last is None or block.last >= moment):
                kinds[block.kind] = kinds.get(block.kind, 0) + block.size
        return kinds

    def _see(self, storage: torch.UntypedStorage) -> Block | None:
        key = storage._cdata
        entry = self._live.get(key)
        size = -(-storage.nbytes() // ALIGNMENT) * ALIGNMENT
        if entry is not None:
            if entry[0].size == size:
                return entry[0]
            kind = entry[0].kind
            self._free(key)
        else:
            kind = OTHER
        if size == 0:
            return None
        block = Block(size, self.num_operations, kind=kind)
        self.blocks.append(block)
        self._live[key] = (block, weakref.ref(storage, lambda _: self._free(key)))
        return block

    def _free(self, key: int) -> None:
        entry = self._live.pop(key, None)
        if entry is not None:
            entry[0].last = self.num_operations


def _device_type(tensor: Tensor) -> str:
    """Return the type of a tensor's device. Reading ``device`` of a fake tensor would dispatch an operation."""
    return tensor.fake_device.type if isinstance(tensor, FakeTensor) else tensor.device.type
