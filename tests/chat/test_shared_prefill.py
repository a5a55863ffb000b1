"""Common beginnings of prompts: computed once, with the answers of separate prompts."""

from __future__ import annotations

import pytest
import torch

from video_llama.chat.decoding import Decoding, last_logits
from video_llama.chat.shared_prefill import shared_prefill
from video_llama.processors.medium import MediaOptions

QUESTIONS = ("What do you see?", "Why?", "Where does the square move, and what do you hear?", "Which colour is it?")


@pytest.mark.parametrize("batch_size", [3, 8])
def test_questions_about_one_clip_share_its_prompt(assistant, clips, batch_size):
    asked = [(clips[name], question) for name in ("video", "image") for question in QUESTIONS]
    together = assistant.ask_batch([*asked, (None, "Hello?")], batch_size=batch_size, max_new_tokens=24)
    for (media, question), answer in zip(asked, together, strict=False):
        alone = assistant.chat(media).ask(question, max_new_tokens=24)
        assert (answer.text, answer.record.prompt) == (alone.text, alone.record.prompt)
        assert answer.record.stop_reason == alone.record.stop_reason
    media_tokens = together[0].record.tokens["media"]
    reused = [answer.record.tokens["reused"] for answer in together]
    assert reused[0] == 0  # the first question of a batch computes the prompt
    assert min(reused[1:3]) > media_tokens
    assert reused[8] == 0


def test_logits_are_those_of_separate_prompts(assistant, clips):
    """Two clips with two questions each, and a prompt without media."""
    engine, decoding = assistant.engine, Decoding(max_new_tokens=4)
    media = [assistant.encode(clips["video"]), assistant.encode(clips["sound"])]
    turns = [assistant.prepare(each, text, MediaOptions(), decoding) for each in media for text in QUESTIONS[:2]]
    turns.append(assistant.prepare(None, QUESTIONS[2], MediaOptions(), decoding))
    prompts = shared_prefill(engine, turns)
    together_BV = last_logits(engine.model, prompts.embeds_BSD, prompts.mask_BL, prompts.cache)
    for row, turn in enumerate(turns):
        alone = shared_prefill(engine, [turn])
        logits_1V = last_logits(engine.model, alone.embeds_BSD, alone.mask_BL, alone.cache)
        torch.testing.assert_close(together_BV[row : row + 1], logits_1V, rtol=1e-4, atol=1e-4)
    assert alone.num_reused == [0]
    assert [count > 0 for count in prompts.num_reused] == [False, True, False, True, False]
