"""A tokenizer trained once for all tests of the miniature."""

from pathlib import Path

import pytest

from video_llama.miniature.tokenizer import train_tokenizer


@pytest.fixture(scope="session")
def tokenizer_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.model"
    train_tokenizer(path, seed=0)
    return path
