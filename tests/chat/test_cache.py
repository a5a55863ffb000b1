"""The cache against having none: whatever is asked, stopped or shown, in whatever order, the answers are the same."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from video_llama.chat.cache import PromptCache
from video_llama.chat.media_prefixes import MediaPrefixes

MOST_MEDIA = 2  # more, with their sentences, are longer than the small model's context

ACTIONS = st.lists(
    st.one_of(
        st.tuples(st.just("ask"), st.sampled_from(["What do you see?", "The colour?", "Why is it so, and not else?"])),
        st.tuples(st.just("stop"), st.integers(1, 4)),
        st.tuples(st.just("show"), st.sampled_from(["video", "sound", "image"])),
        st.tuples(st.just("reset"), st.none()),
    ),
    min_size=2,
    max_size=6,
).filter(lambda actions: sum(name == "show" for name, _ in actions) <= MOST_MEDIA)


def act(chat, name, value, media):
    if name == "ask":
        chat.ask(value, max_new_tokens=10)
    elif name == "show":
        chat.add(media[value])
    elif name == "reset":
        chat.reset()
    else:
        stream = chat.stream("And then?", max_new_tokens=10)
        for _, _ in zip(range(value), stream, strict=False):
            pass
        stream.close()


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(actions=ACTIONS)
def test_same_answers_as_without(assistant, clips, actions):
    media = {name: assistant.encode(clips[name]) for name in ("video", "sound", "image")}
    cached, uncached = assistant.chat(), assistant.chat()
    for name, value in actions:
        act(cached, name, value, media)
        uncached._cache = None
        act(uncached, name, value, media)
    assert [answer.text for answer in cached.answers] == [answer.text for answer in uncached.answers]
    assert [answer.record.prompt for answer in cached.answers] == [answer.record.prompt for answer in uncached.answers]


def test_it_never_holds_the_whole_prompt(assistant):
    """The last id has to be read again: its logits choose the answer's first token."""
    import torch

    cache = PromptCache()
    ids = [1, 5, 6, 7]
    assistant._engine.model(input_ids=torch.tensor([ids]), cache=cache.key_values, use_cache=True)
    cache.ids = list(ids)
    assert cache.keep_common(ids) == 3
    assert cache.key_values.get_seq_length() == len(cache.ids) == 3
    assert cache.keep_common([1, 5, 9, 9]) == 2
    assert cache.key_values.get_seq_length() == len(cache.ids) == 2
    assert cache.keep_common([8, 8]) == 0
    assert cache.key_values.get_seq_length() == 0


QUESTIONS = ("What do you see?", "What do you hear?", "Describe the shape.")


SHORT = {"max_new_tokens": 12}


def fresh_answer(chat, question: str, **decoding):
    """The same question in the same conversation, with nothing cached."""
    chat._cache, chat._engine.prefixes = None, MediaPrefixes()
    return chat.ask(question, **decoding)


class TestCache:
    @pytest.mark.parametrize("decoding", [{}, {"temperature": 1.3, "seed": 5}, {"repetition_penalty": 1.5}])
    def test_later_questions_reuse_it_and_change_nothing(self, assistant, clips, decoding):
        cached, uncached = assistant.chat(clips["video"]), assistant.chat(clips["video"])
        for question in QUESTIONS:
            with_cache = cached.ask(question, **SHORT, **decoding)
            without = fresh_answer(uncached, question, **SHORT, **decoding)
            assert with_cache.text == without.text
            assert without.record.tokens["reused"] == 0
        tokens = with_cache.record.tokens
        assert tokens["prompt"] // 2 < tokens["reused"] < tokens["prompt"]

    def test_media_are_encoded_once(self, chat):
        seconds = [chat.ask(question, **SHORT).record.seconds for question in QUESTIONS]
        assert seconds[0]["decode_media"] > 0 < seconds[0]["encode_media"]
        assert all(each["decode_media"] == each["encode_media"] == 0 for each in seconds[1:])

    def test_a_medium_added_later_keeps_what_was_read(self, assistant, clips):
        chat = assistant.chat(clips["video"])
        chat.ask(QUESTIONS[0], **SHORT)
        chat.add(clips["image"])
        cached = chat.ask(QUESTIONS[1], **SHORT)
        other = assistant.chat(clips["video"])
        other.ask(QUESTIONS[0], **SHORT)
        other.add(clips["image"])
        assert cached.text == fresh_answer(other, QUESTIONS[1], **SHORT).text
        assert cached.record.tokens["reused"] > 0

    def test_history_dropped(self, assistant, clips):
        cached, uncached = assistant.chat(clips["video"]), assistant.chat(clips["video"])
        for index in range(8):
            question = f"{QUESTIONS[index % 3]} And the colour {index}?"
            answer = cached.ask(question, **SHORT)
            assert answer.text == fresh_answer(uncached, question, **SHORT).text
            assert answer.record.tokens["media"] == 5 + 3
        assert answer.record.dropped_turns > 0
        assert "And the colour 0?" not in answer.record.prompt
        assert answer.record.prompt.count("<ImageHere>") == 2
