"""A small tokenizer of our own, made in the test run."""

from pathlib import Path

import pytest

from video_llama.conversation import Tokenizer
from video_llama.datasets.rows import TextRules

SENTENCES = (
    "###Human: <Video></Video> What happens in the video?###Assistant: A red circle moves left.###",
    "The video contains 8 frames sampled at 0.0, 0.2, 0.5, 0.8 seconds.",
    "Close your eyes, open your ears and you imagine only based on the sound that: a low hum.",
    "Now answer my question based on what you have just seen and heard. It is blue, so no.",
)


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    import sentencepiece

    folder: Path = tmp_path_factory.mktemp("tokenizer")
    (folder / "text.txt").write_text("\n".join(SENTENCES * 4))
    sentencepiece.SentencePieceTrainer.train(
        input=str(folder / "text.txt"),
        model_prefix=str(folder / "tokenizer"),
        vocab_size=340,
        model_type="bpe",
        byte_fallback=True,
        hard_vocab_limit=False,
        remove_extra_whitespaces=False,
        user_defined_symbols=["###"],
        minloglevel=2,
    )
    return Tokenizer(folder / "tokenizer.model")


@pytest.fixture(scope="session")
def rules(tokenizer: Tokenizer) -> TextRules:
    return TextRules(tokenizer, "default", num_video_tokens=5, num_audio_tokens=3, end_sym="###", max_txt_len=40)
