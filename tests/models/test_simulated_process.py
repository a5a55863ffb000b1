"""The tests on a simulated accelerator, in a process of their own: fake tensors stay in caches of the process."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_the_simulated_accelerator():
    tests = ["tests/models/test_simulated_accelerator.py", "tests/training/test_simulated_step.py"]
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *tests]
    environment = {**os.environ, "VIDEO_LLAMA_SIMULATED": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=1400)
    assert done.returncode == 0, done.stdout[-5000:]
