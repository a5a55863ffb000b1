"""Small tokenizers that are trained in the test run, so that LLaMA's file is not needed."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.factories.tokenizers import train_tokenizer
from video_llama.conversation import Tokenizer


@pytest.fixture(scope="session")
def tokenizer_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train_tokenizer(tmp_path_factory.mktemp("tokenizer") / "tokenizer.model", num_pieces=480)


@pytest.fixture(scope="session")
def tokenizer(tokenizer_path: Path) -> Tokenizer:
    return Tokenizer(tokenizer_path)


@pytest.fixture(scope="session")
def greedy_tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    """A tokenizer with the piece ``#H``, which spans the end of "###" and the beginning of "Human"."""
    path = tmp_path_factory.mktemp("greedy") / "tokenizer.model"
    return Tokenizer(train_tokenizer(path, num_pieces=480, symbols=["#H"]))
