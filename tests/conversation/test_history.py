"""Fitting a conversation into the context: whole old turns are dropped, all media are kept."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from video_llama.conversation import TEMPLATES, Conversation, Slot, Tokenizer, encode_prompt, fit_history, media_message
from video_llama.errors import PromptError

MEDIA = {
    "video": media_message(video=Slot("video"), sentence="The video contains 1 frames sampled at 0.0 seconds. "),
    "audio": media_message(audio=Slot("audio")),
    "film": media_message(video=Slot("video"), audio=Slot("audio")),
    "image": media_message(image=Slot("video")),
}
COUNTS = {"num_video_tokens": 32, "num_audio_tokens": 8}
WORDS = st.lists(st.sampled_from(["rain", "dog", "what", "square"]), min_size=1, max_size=30).map(" ".join)
TURN = st.tuples(st.lists(st.sampled_from(sorted(MEDIA)), max_size=2), WORDS, WORDS)


def talk(template: str, turns: list[tuple[list[str], str, str]], is_answered: bool = False) -> Conversation:
    """Return the turns with their answers; the last one is answered only if ``is_answered``."""
    conversation = Conversation(TEMPLATES[template])
    for number, (media, question, answer) in enumerate(turns):
        for name in media:
            conversation.add_media(MEDIA[name])
        conversation.ask(question)
        if is_answered or number < len(turns) - 1:
            conversation.answer(answer)
    return conversation


def length(tokenizer: Tokenizer, conversation: Conversation) -> int:
    return len(encode_prompt(tokenizer, conversation.prompt(), **COUNTS).input_ids)


def media_until(turns: list[tuple[list[str], str, str]], number: int) -> list[str]:
    return [name for media, _, _ in turns[: number + 1] for name in media]


@given(
    template=st.sampled_from(["default", "llama2"]),
    turns=st.lists(TURN, min_size=1, max_size=6),
    context=st.integers(60, 900),
    max_new=st.integers(1, 50),
)
def test_newest_turns_and_all_media_are_kept(
    tokenizer: Tokenizer, template: str, turns: list[tuple[list[str], str, str]], context: int, max_new: int
) -> None:
    conversation = talk(template, turns)
    before = conversation.text()
    slots = [part.kind for part in conversation.prompt() if isinstance(part, Slot)]
    candidates = [talk(template, [(media_until(turns, n), *turns[n][1:]), *turns[n + 1 :]]) for n in range(len(turns))]
    lengths = [length(tokenizer, candidate) for candidate in candidates]
    limits = {"context_length": context, "max_new_tokens": max_new}
    fitting = [number for number, tokens in enumerate(lengths) if tokens <= context - max_new]
    if lengths[0] > context - max_new and lengths[-1] > context - max_new:
        with pytest.raises(PromptError, match=rf"needs {lengths[-1]:,} tokens .* context length is {context:,}\."):
            fit_history(conversation, tokenizer, **limits, **COUNTS)
        assert conversation.text() == before
        return
    kept, encoded = fit_history(conversation, tokenizer, **limits, **COUNTS)
    assert conversation.text() == before, "the conversation given stays as it is"
    assert len(encoded.input_ids) <= context - max_new
    assert [span.kind for span in encoded.spans] == slots, "no medium is lost, and their order stays"
    assert all(span.length == COUNTS[f"num_{span.kind}_tokens"] for span in encoded.spans)
    assert encoded == encode_prompt(tokenizer, kept.prompt(), **COUNTS)
    assert kept.text() == candidates[fitting[0]].text(), "as few turns are dropped as will do"
    assert kept.media == conversation.media


def test_a_conversation_that_fits_is_unchanged(tokenizer: Tokenizer) -> None:
    conversation = talk("default", [(["film"], "What?", "Rain."), ([], "And?", "")])
    kept, _ = fit_history(conversation, tokenizer, context_length=2000, max_new_tokens=300, **COUNTS)
    assert kept is conversation


def test_a_conversation_that_ends_with_an_answer(tokenizer: Tokenizer) -> None:
    turns = [(["video"] if n == 0 else [], f"question {n}", "It rains and rains.") for n in range(5)]
    conversation = talk("default", turns, is_answered=True)
    kept, _ = fit_history(conversation, tokenizer, context_length=150, max_new_tokens=10, **COUNTS)
    assert "question 4" in kept.text()
    assert "question 0" not in kept.text()
    assert kept.text().endswith("It rains and rains.###")


@pytest.mark.parametrize("text", ["word " * 20_000, "a" * 100_000, "#" * 100_000, "音" * 100_000])
def test_a_question_of_100_000_characters(tokenizer: Tokenizer, text: str) -> None:
    conversation = Conversation(TEMPLATES["default"])
    conversation.add_media(MEDIA["film"])
    conversation.ask(text)
    expected = length(tokenizer, conversation)
    with pytest.raises(PromptError) as caught:
        fit_history(conversation, tokenizer, context_length=2048, max_new_tokens=300, **COUNTS)
    assert str(caught.value) == (
        f"The question needs {expected:,} tokens ({expected - 40:,} of text, 40 of media) and the answer up to 300; "
        "the model's context length is 2,048. Shorten the question, give fewer media, or lower max_new_tokens."
    )


def test_no_room_for_a_prompt_raises_value_error(tokenizer: Tokenizer) -> None:
    conversation = talk("default", [([], "What?", "")])
    with pytest.raises(
        ValueError, match=r"max_new_tokens 300 leaves no room for a prompt in the context of 300\. Lower it"
    ):
        fit_history(conversation, tokenizer, context_length=300, max_new_tokens=300, **COUNTS)
