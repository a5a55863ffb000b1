"""A small tokenizer that is trained in the test run, and three clips."""

import numpy as np
import pytest

from tests.factories.tokenizers import train_tokenizer
from video_llama.conversation import Tokenizer
from video_llama.datasets.rows import TextRules
from video_llama.datasets.sample import Sample
from video_llama.miniature.world import sample_scene, write_clip


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.model"
    return Tokenizer(train_tokenizer(path, symbols=["###"]))


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
