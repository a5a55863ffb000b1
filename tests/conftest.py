"""Settings of every test: one thread, no network, no GPU unless there is one, and the folders that some tests need."""

import os
from pathlib import Path

# On two busy cores two threads are slower than one. Set before torch is imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import pytest
from hypothesis import settings

# A loaded machine is not a slow test: pytest's own timeout guards against hangs.
settings.register_profile("video_llama", deadline=None)
settings.load_profile("video_llama")


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("gpu") is not None:
        import torch

        if not torch.cuda.is_available():
            pytest.skip("needs a CUDA device")


@pytest.fixture(scope="session")
def repository() -> Path:
    """The root of the checkout."""
    return Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def media_dir() -> Path:
    """The folder of the golden media files, which are not ours to ship."""
    return _named_by("VIDEO_LLAMA_MEDIA")


@pytest.fixture(scope="session")
def llama_tokenizer() -> Path:
    """LLaMA's sentencepiece file, which is not ours to ship."""
    return _named_by("VIDEO_LLAMA_TOKENIZER")


def _named_by(variable: str) -> Path:
    value = os.environ.get(variable)
    if not value:
        pytest.skip(f"{variable} is not set")
    path = Path(value)
    if not path.exists():
        pytest.fail(f"{variable} names {value}, which does not exist")
    return path
