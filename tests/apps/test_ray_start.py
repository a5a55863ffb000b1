"""Starting Ray. A real start is part of tests/apps/batch/test_ray_engine.py."""

import subprocess
import sys

import pytest

from video_llama.apps.ray_start import start_ray
from video_llama.errors import MissingExtraError


def test_without_ray(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'video-llama\[scale\]'"):
        start_ray(None, 1, None)


def test_an_address_that_is_none():
    pytest.importorskip("ray", reason="ray is not installed: pip install '.[scale]'")
    code = """
import os
from video_llama.apps.ray_start import start_ray
from video_llama.errors import WorkerError
try:
    start_ray("ray://", 1, None)
except WorkerError as error:
    print(os.environ["RAY_USAGE_STATS_ENABLED"], "Check the address of the cluster" in str(error))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "0 True", done.stderr
