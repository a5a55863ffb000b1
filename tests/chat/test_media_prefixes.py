"""Conversations about one encoded medium compute the beginning of their prompts once, and answer as before."""

import gc

import pytest
import torch

from video_llama.chat.media_prefixes import MediaPrefixes
from video_llama.conversation import EncodedPrompt, Span

QUESTIONS = ("What do you see?", "Where does the square move?", "Why?")
NUM_TOKENS = 12


class Medium:
    """An object that can be referenced weakly."""


def prompt_of(ids, *spans):
    return EncodedPrompt(list(ids), [Span("video", start, length) for start, length in spans])


def pairs_of(length):
    return [(torch.arange(length).float().reshape(1, 1, length, 1), torch.zeros(1, 1, length, 1))]


@pytest.fixture
def positions(assistant, monkeypatch):
    """The number of positions of each call of the decoder."""
    counts, decoder = [], assistant.engine.model.model.language_model
    hook = decoder.register_forward_pre_hook(
        lambda module, inputs, named: counts.append(named["inputs_embeds"].shape[:2].numel()), with_kwargs=True
    )
    yield counts
    hook.remove()


def test_chats_share_the_beginning(assistant, clips, positions):
    medium = assistant.encode(clips["video"])
    fresh = [assistant.chat(clips["video"]).ask(question, max_new_tokens=NUM_TOKENS) for question in QUESTIONS]
    positions.clear()
    for number, (question, expected) in enumerate(zip(QUESTIONS, fresh, strict=True)):
        answer = assistant.chat(medium).ask(question, max_new_tokens=NUM_TOKENS)
        assert answer.text == expected.text
        tokens = answer.record.tokens
        media_end = tokens["media"]
        assert (tokens["reused"] > media_end) == (number > 0)
        assert positions[0] == tokens["prompt"] - tokens["reused"]
        positions.clear()


def test_second_question_of_a_chat_computes_only_its_own_tokens(assistant, clips, positions):
    chat = assistant.chat(clips["video"])
    first = chat.ask(QUESTIONS[0], max_new_tokens=NUM_TOKENS)
    positions.clear()
    second = chat.ask(QUESTIONS[1], max_new_tokens=NUM_TOKENS)
    new = second.record.tokens["prompt"] - first.record.tokens["prompt"] - first.record.tokens["generated"]
    # The last token of the first answer has no keys and values yet; an answer's text can be tokenized in another way.
    assert positions[0] == second.record.tokens["prompt"] - second.record.tokens["reused"]
    assert positions[0] <= new + NUM_TOKENS + 1
    assert positions[1:] == [1] * (second.record.tokens["generated"] - 1)


def test_only_the_same_media_share():
    prefixes, one, other = MediaPrefixes(), Medium(), Medium()
    prefixes.keep([one], prompt_of([1, 9, 9, 5, 6], (1, 2)), pairs_of(5))
    length, [(keys, _)] = prefixes.find([one], [1, 9, 9, 7])
    assert (length, keys.flatten().tolist()) == (3, [0.0, 1.0, 2.0])
    assert prefixes.find([one, other], [1, 9, 9, 9, 9, 7])[0] == 3
    assert prefixes.find([one], [1, 9, 8, 8])[0] == 2
    assert prefixes.find([one], [1, 9, 9])[0] == 2  # one token is left
    for media in ([other], [other, one], []):
        assert prefixes.find(media, [1, 9, 9, 7]) == (0, [])


def test_what_is_kept():
    prefixes, media = MediaPrefixes(max_entries=2), [Medium() for _ in range(3)]
    prefixes.keep([], prompt_of([1, 2]), pairs_of(2))
    assert len(prefixes) == 0
    for medium in media:
        for _ in range(2):  # what is known is not kept again
            prefixes.keep([medium], prompt_of([1, 9, 5], (1, 1)), pairs_of(3))
    assert [prefixes.find([medium], [1, 9, 7])[0] for medium in media] == [0, 2, 2]
    del medium
    media.pop()
    gc.collect()
    assert len(prefixes) == 1
    assert len(prefixes._entries) == 1
