"""A small tokenizer, trained for the tests, for runs without LLaMA's file."""

from __future__ import annotations

from pathlib import Path

import pytest

from video_llama.conversation import Tokenizer

TEXT = """What is happening in the video? A child blows out the candles on a cake. People are clapping and laughing.
How many people are there? About twenty, and the last two leave early. What do you hear? Rain, then a dog barks twice.
###Human: Describe this image in detail.###Assistant: The image shows a red square that moves from left to right.###
[INST] <<SYS>> You are a helpful assistant. <</SYS>> Is it day or night? [/INST] It is night. Close your eyes, open
your ears and you imagine only based on the sound that: now answer my question based on what you have just seen.
"""


def train_model(folder: Path, symbols: list[str]) -> Path:
    """A SentencePiece model of LLaMA's kind: BPE, byte fallback, spaces kept, ``<unk> <s> </s>`` first."""
    import sentencepiece

    (folder / "text.txt").write_text(TEXT * 4, encoding="utf-8")
    sentencepiece.SentencePieceTrainer.train(
        input=str(folder / "text.txt"),
        model_prefix=str(folder / "tokenizer"),
        vocab_size=480,
        model_type="bpe",
        byte_fallback=True,
        split_digits=True,
        remove_extra_whitespaces=False,
        normalization_rule_name="identity",
        user_defined_symbols=symbols,
        num_threads=1,
        minloglevel=2,
    )
    return folder / "tokenizer.model"


@pytest.fixture(scope="session")
def tokenizer_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train_model(tmp_path_factory.mktemp("tokenizer"), [])


@pytest.fixture(scope="session")
def tokenizer(tokenizer_path: Path) -> Tokenizer:
    return Tokenizer(tokenizer_path)


@pytest.fixture(scope="session")
def greedy_tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    """One whose piece ``#H`` spans the end of "###" and the beginning of "Human"."""
    return Tokenizer(train_model(tmp_path_factory.mktemp("greedy"), ["#H"]))
