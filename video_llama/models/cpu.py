"""The CPU's units for matrix products, which decide the data type and the kernel of each part (``placement.py``)."""

from __future__ import annotations

import platform
from dataclasses import dataclass
from functools import lru_cache

import torch


@dataclass(frozen=True)
class Processor:
    """The properties of a CPU that matter for matrix products."""

    name: str
    instruction_sets: tuple[str, ...]
    """Those of avx2, avx512, avx512_bf16, avx512_vnni, amx and neon that it has."""
    has_bfloat16: bool
    """Whether the processor multiplies bfloat16. Otherwise torch emulates it, several times slower than float32."""
    has_fbgemm: bool
    """Whether torch includes FBGEMM, whose products of float32 inputs and float16 or int8 weights are faster than those
    of float32 (x86)."""


@lru_cache(maxsize=1)
def processor() -> Processor:
    """Return the properties of this machine's CPU."""
    is_arm = platform.machine().lower() in ("arm64", "aarch64")
    found = {
        "avx2": torch.cpu._is_avx2_supported(),
        "avx512": torch.cpu._is_avx512_supported(),
        "avx512_bf16": torch.cpu._is_avx512_bf16_supported(),
        "avx512_vnni": torch.cpu._is_vnni_supported(),
        "amx": torch.cpu._is_amx_tile_supported(),
        "neon": is_arm,
    }
    return Processor(
        name=_name(),
        instruction_sets=tuple(name for name, is_present in found.items() if is_present),
        has_bfloat16=bool(torch.ops.mkldnn._is_mkldnn_bf16_supported()) and (is_arm or _has_bfloat16_units(found)),
        has_fbgemm="fbgemm" in torch.backends.quantized.supported_engines and found["avx2"],
    )


def emulates_bfloat16(device: torch.device) -> bool:
    """Return whether bfloat16 is emulated on this device, which takes many times as long as float32."""
    return device.type == "cpu" and not processor().has_bfloat16


def _has_bfloat16_units(found: dict[str, bool]) -> bool:
    """Return whether an x86 processor multiplies bfloat16: oneDNN also supports emulation on AVX-512."""
    return found["avx512_bf16"] or found["amx"]


def _name() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
