"""The repetition penalty of the answer's tokens. Its effect on ``generate`` is in test_video_llama_generate.py."""

import pytest
import torch
from transformers import GenerationConfig

from video_llama.models.repetition_penalty import AnswerRepetitionPenalty, with_answer_penalty


def test_the_penalty_applies_to_bos_and_the_answer_only() -> None:
    scores = torch.tensor([[2.0, 2.0, -2.0, -2.0, 2.0]])
    penalty = AnswerRepetitionPenalty(2.0, prompt_length=3, bos_token_id=1)
    after = penalty(torch.tensor([[4, 61, 3, 2]]), scores)
    assert after.tolist() == [[2.0, 1.0, -4.0, -2.0, 2.0]]


def test_the_penalty_becomes_a_logits_processor_ahead_of_the_others() -> None:
    other = object()
    settings = GenerationConfig(repetition_penalty=1.5)
    kwargs = with_answer_penalty({"logits_processor": [other]}, settings, 4, 1)
    penalty, *rest = kwargs["logits_processor"]
    assert (kwargs["repetition_penalty"], rest) == (1.0, [other])
    assert (penalty.penalty, penalty.prompt_length, penalty.bos_token_id) == (1.5, 4, 1)
    overridden = with_answer_penalty({"repetition_penalty": 2.0}, settings, 4, 1)
    assert overridden["logits_processor"][0].penalty == 2.0
    assert with_answer_penalty({"repetition_penalty": 1.0}, settings, 4, 1) == {"repetition_penalty": 1.0}


def test_a_penalty_that_is_not_positive_is_refused() -> None:
    with pytest.raises(ValueError, match=r"repetition_penalty is 0\. Use a value above 0"):
        with_answer_penalty({"repetition_penalty": 0}, None, 0, None)
