"""A few hundred damaged media files: each is read or raises MediaError."""

import subprocess
import sys

import pytest


@pytest.mark.slow
def test_damaged_files_are_read_or_refused(repository):
    command = [sys.executable, "benchmarks/fuzz_media.py", "--files", "300", "--seed", "1"]
    run = subprocess.run(command, cwd=repository, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout
    assert "300 files: " in run.stdout
    assert ", 0 bad" in run.stdout
