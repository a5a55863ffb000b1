"""``generate`` ends at the stop strings of the generation configuration, without a ``tokenizer`` argument."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.factories.models import make_folder
from video_llama.conversation import Tokenizer
from video_llama.models.video_llama import VideoLlamaForConditionalGeneration

TEXT = "###Human: yes ###Human: yes"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: Any) -> Path:
    return make_folder(tmp_path_factory.mktemp("stops") / "model")


@pytest.fixture
def model(folder: Path) -> VideoLlamaForConditionalGeneration:
    return VideoLlamaForConditionalGeneration.from_pretrained(folder).eval()


@pytest.fixture
def words(folder: Path) -> list[int]:
    return Tokenizer(folder / "tokenizer.model").encode(TEXT)


def say(model: VideoLlamaForConditionalGeneration, words: list[int], **settings: Any) -> list[int]:
    """Return the answer of a model that repeats ``words``, which the prompt also has."""
    prompt = [1, *words, *words]

    def allowed(batch: int, ids: Tensor) -> list[int]:
        return [words[(len(ids) - len(prompt)) % len(words)]]

    made = model.generate(
        torch.tensor([prompt]), prefix_allowed_tokens_fn=allowed, do_sample=False, max_new_tokens=30, **settings
    )
    return made[0, len(prompt) :].tolist()


@pytest.mark.parametrize("settings", [{}, {"prompt_lookup_num_tokens": 8}, {"num_beams": 2}], ids=str)
def test_an_answer_ends_with_the_first_stop_string(
    model: VideoLlamaForConditionalGeneration, words: list[int], folder: Path, settings: dict[str, Any]
) -> None:
    assert model.generation_config.stop_strings == ["###"]
    assert len(say(model, words, stop_strings=None)) == 30
    text = Tokenizer(folder / "tokenizer.model").decode(say(model, words, **settings))
    assert text == "###"
    stopped = say(model, words, stop_strings=["yes"], **settings)
    assert Tokenizer(folder / "tokenizer.model").decode(stopped) == "###Human: yes"


def test_an_assistant_does_not_pass_the_stop_string(
    model: VideoLlamaForConditionalGeneration, words: list[int]
) -> None:
    assert say(model, words, assistant_model=model) == say(model, words)


def test_a_missing_tokenizer_is_named(
    model: VideoLlamaForConditionalGeneration, words: list[int], tmp_path: Path
) -> None:
    model.config._name_or_path = str(tmp_path)
    with pytest.raises(ValueError, match=r"Stop strings \(\['###'\]\) require a tokenizer, and none is in"):
        say(model, words)
