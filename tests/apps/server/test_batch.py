"""Rows that join and leave a batch at any time get the same tokens as alone."""

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import DynamicCache

from video_llama.apps.server import key_values
from video_llama.apps.server.batch import DecodeBatch, PrefixCache, prompt_labels
from video_llama.apps.server.chunk_size import ChunkSize
from video_llama.chat.decoding import Decoding, TokenChooser, token_steps
from video_llama.chat.messages import message_for
from video_llama.conversation import Conversation
from video_llama.models.encoding_steps import run_steps
from video_llama.processors.medium import MediaOptions

NUM_TOKENS = 10
QUESTIONS = ("What do you see?", "Say something about the colour of the square, and of the circle.", "Hear?")
DECODINGS = tuple(
    Decoding(max_new_tokens=NUM_TOKENS, **settings)
    for settings in ({}, {"temperature": 1.3, "seed": 5}, {"repetition_penalty": 1.4})
)


@pytest.fixture(scope="module")
def turns(assistant, clips):
    """Turns about each clip and without media, with various decoding settings; each with its media keys and tokens."""
    engine = assistant.engine
    media = {name: engine.encode(path, MediaOptions()) for name, path in clips.items()}
    found = []
    for number, name in enumerate([None, *media, "video", "video"]):
        conversation = Conversation(engine.template)
        given = [] if name is None else [media[name]]
        for medium in given:
            conversation.add_media(message_for(medium.read))
        question, decoding = QUESTIONS[number % len(QUESTIONS)], DECODINGS[number % len(DECODINGS)]
        turn = engine.turn(conversation, given, question, decoding)
        found.append((turn, [name] * len(given), ids_alone(engine, turn)))
    return found


def ids_alone(engine, turn) -> list[int]:
    embeds, mask = engine.embed([turn])
    choose = TokenChooser(turn.decoding, engine.tokenizer.bos_id, 1, engine.model.device)
    steps = token_steps(engine.model, embeds, mask, DynamicCache(), choose)
    return [next(steps)[0] for _ in range(NUM_TOKENS)]


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    arrivals=st.lists(st.tuples(st.integers(0, 6), st.integers(0, 3)), min_size=1, max_size=8),
    max_tokens=st.sampled_from([0, 600]),
)
def test_tokens_are_the_same_as_alone(assistant, turns, arrivals, max_tokens):
    """``arrivals``: index of a turn that joins, and number of steps before the next one. Complete rows leave."""
    batch, rows, done = DecodeBatch(assistant.engine, PrefixCache(max_tokens)), [], []

    def advance() -> None:
        for row, token in zip(rows, batch.step(), strict=True):
            row[1].append(token)
        ended = [place for place, row in enumerate(rows) if len(row[1]) == NUM_TOKENS]
        done.extend(rows[place] for place in ended)
        rows[:] = [rows[place] for place in batch.leave(ended)]
        assert len(batch) == len(rows)

    for which, pause in arrivals:
        turn, keys, expected = turns[which]
        rows.append((expected, [batch.join(turn, keys)[0]]))
        for _ in range(pause):
            if rows:
                advance()
    while rows:
        advance()
    assert len(done) == len(arrivals)
    for expected, ids in done:
        assert ids == expected


def test_a_prompt_joins_a_batch_that_was_cleared_meanwhile(assistant, turns, monkeypatch):
    """The scheduler clears the batch after a step that failed, also between two steps of a prompt that joins."""
    monkeypatch.setattr(key_values, "MANY_TOKENS", 1)
    batch, (turn, keys, expected) = DecodeBatch(assistant.engine, PrefixCache(0)), turns[1]
    steps = batch.join_steps(turn, keys, ChunkSize(1000))
    while not batch._cache._is_appending:
        next(steps)
    batch.clear()
    ids = [run_steps(steps)[0], *(batch.step()[0] for _ in range(NUM_TOKENS - 1))]
    assert ids == expected


def test_common_prefix_is_reused(assistant, turns):
    cache = PrefixCache(600)
    batch = DecodeBatch(assistant.engine, cache)
    same = [(turn, keys) for turn, keys, _ in turns if keys == ["video"]]
    assert batch.join(*same[0])[1] == 0
    media_end = max(span.start + span.length for span in same[1][0].prompt.spans)
    assert batch.join(*same[1])[1] >= media_end
    # A prompt with another medium has the same ids but different embeddings.
    turn, _ = same[1]
    assert batch.join(turn, ["another"])[1] <= min(span.start for span in turn.prompt.spans)


def test_labels_distinguish_media(turns):
    turn, keys, _ = next(row for row in turns if row[1] == ["video"])
    labels, others = prompt_labels(turn, keys), prompt_labels(turn, ["another"])
    differ = {place for place, pair in enumerate(zip(labels, others, strict=True)) if pair[0] != pair[1]}
    spans = {place for span in turn.prompt.spans for place in range(span.start, span.start + span.length)}
    assert differ == spans
    assert len(labels) == len(turn.prompt.input_ids)


def test_prefix_cache_limits_its_tokens():
    cache = PrefixCache(10)

    def keep(labels):
        cache.keep(list(labels), [(torch.zeros(1, 1, len(labels), 2), torch.zeros(1, 1, len(labels), 2))])

    keep("abcd")
    keep("abcdef")  # replaces its prefix
    assert cache.num_tokens == 6
    keep("abc")  # is a prefix of an entry
    assert cache.num_tokens == 6
    keep("xyz")
    length, [(keys, _)] = cache.longest("abcd")
    assert (length, keys.shape[2]) == (3, 3)  # the last token is never reused
    keep("uvw")  # removes the least recently used entry
    assert cache.longest("xyzz")[0] == 0
    assert cache.longest("abcdq")[0] == 4
    keep("0123456789-")
    assert cache.longest("0123456789-")[0] == 0
