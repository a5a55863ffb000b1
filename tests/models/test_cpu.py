"""The processor's properties."""

import platform
from pathlib import Path

import pytest

from video_llama.models.cpu import processor


def test_bfloat16_requires_units_for_it():
    found = processor()
    units = {"avx512_bf16", "amx", "neon"} & set(found.instruction_sets)
    assert units or not found.has_bfloat16


@pytest.mark.skipif(not Path("/proc/cpuinfo").is_file(), reason="Linux only")
def test_instruction_sets_are_those_of_the_system():
    flags = Path("/proc/cpuinfo").read_text(encoding="utf-8").split()
    found = processor()
    if platform.machine() == "x86_64":
        assert ("avx2" in flags) == ("avx2" in found.instruction_sets)
        assert ("avx512_bf16" in flags) == ("avx512_bf16" in found.instruction_sets)
    assert found.name
