"""A small tokenizer that is trained in the test run, and three clips."""

from pathlib import Path

import numpy as np
import pytest

from video_llama.conversation import Tokenizer
from video_llama.datasets.rows import TextRules
from video_llama.datasets.sample import Sample
from video_llama.miniature.world import sample_scene, write_clip

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


@pytest.fixture(scope="session")
def samples(tmp_path_factory: pytest.TempPathFactory) -> list[Sample]:
    """Three video clips with a caption."""
    folder = tmp_path_factory.mktemp("clips")
    found = []
    for index in range(3):
        path = folder / f"{index}.mp4"
        write_clip(sample_scene(np.random.default_rng(index), "any"), path)
        found.append(Sample(f"rows:{index}", path, "video", caption="a clip"))
    return found
