"""Decoding of generated ids to the answer, at once and as a stream."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from video_llama.conversation import (
    TEMPLATES,
    StreamDecoder,
    Template,
    Tokenizer,
    has_stop,
    postprocess,
    stop_sequences,
)

VOCABULARY = 480
BYTES = 3  # id of the first of the 256 byte pieces, after <unk> <s> </s>
TEMPLATE = st.sampled_from([TEMPLATES["default"], TEMPLATES["llama2"]])


def telling_ids(tokenizer: Tokenizer) -> list[int]:
    """Return ids that form stop strings, markers, special tokens and incomplete characters."""
    texts = ("###", "#", " #", "Human:", "Assistant:", "ASSISTANT:", " ", "\n", "é", "音", "</s>", "<s>", "<unk>", "a#")
    return sorted({token for text in texts for token in tokenizer.encode(text)} | {BYTES + 0xE9, BYTES + 0x9F})


@st.composite
def generated(draw: st.DrawFn, tokenizer: Tokenizer) -> list[int]:
    token = st.one_of(st.integers(0, VOCABULARY - 1), st.sampled_from(telling_ids(tokenizer)))
    marks = st.sampled_from(["Assistant:", "ASSISTANT:", "###", "##", "Human:", " dog ", "</s>"]).map(tokenizer.encode)
    parts = draw(st.lists(st.one_of(st.lists(token, max_size=6), marks), max_size=8))
    return [token for part in parts for token in part]


def until_stop(tokenizer: Tokenizer, ids: list[int], template: Template) -> list[int]:
    """Return the ids up to the one that completes the stop string, where generation ends."""
    lengths = range(1, len(ids) + 1)
    return ids[: next((n for n in lengths if has_stop(tokenizer, ids[:n], template)), len(ids))]


@settings(max_examples=300)
@given(data=st.data(), template=TEMPLATE)
def test_stream_pieces_join_to_the_answer(tokenizer: Tokenizer, data: st.DataObject, template: Template) -> None:
    ids = data.draw(generated(tokenizer))
    expected = postprocess(tokenizer, until_stop(tokenizer, ids, template), template)
    decoder = StreamDecoder(tokenizer, template)
    shown = "".join(decoder.push(token) for token in ids)
    assert not decoder.is_stopped or shown.endswith(expected), "with the stop everything is certain"
    shown += decoder.finish()
    assert decoder.answer == expected
    assert decoder.is_stopped == has_stop(tokenizer, ids, template)
    if decoder.has_restarted:
        assert f"{template.roles[1]}:" in tokenizer.decode(ids)
        assert shown.endswith(expected)
    else:
        assert shown == expected


@settings(max_examples=300)
@given(data=st.data(), template=TEMPLATE)
def test_streamed_text_is_a_prefix_of_the_answer(tokenizer: Tokenizer, data: st.DataObject, template: Template) -> None:
    """Every text returned is a prefix of the final answer, unless the model generates "Assistant:" again."""
    ids = data.draw(generated(tokenizer))
    expected = postprocess(tokenizer, until_stop(tokenizer, ids, template), template)
    decoder = StreamDecoder(tokenizer, template)
    shown = ""
    for token in ids:
        shown += decoder.push(token)
        if not decoder.has_restarted and f"{template.roles[1]}:" not in tokenizer.decode(ids):
            assert expected.startswith(shown)


@st.composite
def spelling(draw: st.DrawFn, tokenizer: Tokenizer, text: str) -> list[int]:
    """Return ids of pieces or bytes that decode to ``text``."""
    known = {tokenizer.decode([BYTES, i])[1:]: i for i in range(BYTES + 256, VOCABULARY)}
    ids: list[int] = []
    while text:
        choices = [BYTES + text.encode()[0]] + [i for piece, i in known.items() if piece and text.startswith(piece)]
        token = draw(st.sampled_from(choices))
        ids.append(token)
        text = text[1:] if token < BYTES + 256 else text.removeprefix(tokenizer.decode([BYTES, token])[1:])
    return ids


@given(data=st.data())
def test_stop_string_is_found_in_any_tokenisation(tokenizer: Tokenizer, data: st.DataObject) -> None:
    template = TEMPLATES["default"]
    stop = data.draw(spelling(tokenizer, "###"))
    ids = [*tokenizer.encode("It rains."), *stop]
    assert tokenizer.decode(ids) == "It rains.###"
    assert has_stop(tokenizer, ids, template)
    assert not has_stop(tokenizer, ids[:-1], template)
    assert postprocess(tokenizer, ids + tokenizer.encode("Human: more"), template) == "It rains."
    decoder = StreamDecoder(tokenizer, template)
    assert "".join(decoder.push(token) for token in ids) == "It rains."
    assert decoder.is_stopped
    assert decoder.push(5) == ""


def test_llama_2_stops_at_the_eos_token(tokenizer: Tokenizer) -> None:
    template = TEMPLATES["llama2"]
    ids = [*tokenizer.encode("It rains."), tokenizer.eos_id]
    assert has_stop(tokenizer, ids, template)
    assert postprocess(tokenizer, ids, template) == "It rains."
    assert stop_sequences(tokenizer, template) == [[tokenizer.eos_id]]


def test_stop_sequences_equal_the_reference(llama_tokenizer: object) -> None:
    llama = Tokenizer(llama_tokenizer)  # type: ignore[arg-type]
    assert stop_sequences(llama, TEMPLATES["default"]) == [[835], [2277, 29937]]
    assert stop_sequences(llama, TEMPLATES["llama2"]) == [[2]]


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("  It rains. ", "It rains."),
        ("It rains.###Human: And", "It rains."),
        ("###Assistant: It rains.", ""),
        ("Well. Assistant: It rains.", "It rains."),
        ("", ""),
    ],
)
def test_postprocess_follows_the_reference(tokenizer: Tokenizer, text: str, answer: str) -> None:
    ids = tokenizer.encode(text)
    assert postprocess(tokenizer, ids, TEMPLATES["default"]) == answer
    assert postprocess(tokenizer, [tokenizer.unk_id, tokenizer.bos_id, *ids], TEMPLATES["default"]) == answer


def test_a_word_is_returned_once_it_is_final(tokenizer: Tokenizer) -> None:
    decoder = StreamDecoder(tokenizer, TEMPLATES["default"])
    pieces = [decoder.push(token) for token in tokenizer.encode("A red square moves from left to right.")]
    assert sum(bool(piece) for piece in pieces) > 5


def test_a_second_assistant_marker_sets_has_restarted(tokenizer: Tokenizer) -> None:
    decoder = StreamDecoder(tokenizer, TEMPLATES["default"])
    shown = "".join(decoder.push(token) for token in tokenizer.encode("Well. Assistant: It rains."))
    shown += decoder.finish()
    assert decoder.has_restarted
    assert decoder.answer == "It rains."
    assert shown == "Well.It rains."
