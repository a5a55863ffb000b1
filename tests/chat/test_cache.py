"""The cache against having none: whatever is asked, stopped or shown, in whatever order, the answers are the same."""

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from video_llama.chat.cache import PromptCache

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
    assistant._engine.model(input_ids=torch.tensor([ids]), past_key_values=cache.key_values, use_cache=True)
    cache.ids = list(ids)
    assert cache.keep_common(ids) == 3
    assert cache.key_values.get_seq_length() == len(cache.ids) == 3
    assert cache.keep_common([1, 5, 9, 9]) == 2
    assert cache.key_values.get_seq_length() == len(cache.ids) == 2
    assert cache.keep_common([8, 8]) == 0
    assert cache.key_values.get_seq_length() == 0
