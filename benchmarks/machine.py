"""The machine that a benchmark runs on, for the first line of its output."""

from __future__ import annotations

import os
import re
from pathlib import Path


def machine() -> str:
    """Return the number of cores, the model name of the processor and OMP_NUM_THREADS."""
    name = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text(encoding="utf-8"))
    threads = os.environ.get("OMP_NUM_THREADS", "unset")
    return f"{os.cpu_count()} cores, {name.group(1) if name else 'unknown processor'}, OMP_NUM_THREADS={threads}"
