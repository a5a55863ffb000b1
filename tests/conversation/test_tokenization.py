"""Encoding of texts and prompts to ids, and decoding."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from video_llama.conversation import Slot, Tokenizer, encode_prompt, segment_ids
from video_llama.errors import CheckpointError

PLAIN = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0\N{LOWER ONE EIGHTH BLOCK}<"))
PARTS = st.lists(st.one_of(PLAIN, st.sampled_from([Slot("video"), Slot("audio")])), max_size=8)


@pytest.fixture(scope="module", params=[None, "[PAD]"])
def either(request: pytest.FixtureRequest, tokenizer_path: Path) -> Tokenizer:
    """The tokenizers of a LLaMA-2 folder and of a Vicuna-v0 folder."""
    return Tokenizer(tokenizer_path, pad_token=request.param)


@given(text=PLAIN)
def test_decode_inverts_encode(tokenizer: Tokenizer, text: str) -> None:
    assert tokenizer.decode(tokenizer.encode(text)) == text
    assert tokenizer.encode(text, add_bos=True) == [tokenizer.bos_id, *tokenizer.encode(text)]


def test_ids_of_the_added_tokens(tokenizer_path: Path) -> None:
    plain, padded = Tokenizer(tokenizer_path), Tokenizer(tokenizer_path, pad_token="[PAD]")
    assert (plain.unk_id, plain.bos_id, plain.eos_id, plain.pad_id) == (0, 1, 2, 0)
    assert (plain.vocab_size, plain.video_token_id, plain.audio_token_id) == (480, 480, 481)
    assert (padded.pad_id, padded.vocab_size, padded.video_token_id, padded.audio_token_id) == (480, 481, 481, 482)


def test_placeholders_are_encoded_only_on_request(either: Tokenizer) -> None:
    text = "one <ImageHere> two<AudioHere>"
    with_ids = either.encode(text, placeholders=True)
    assert with_ids == [
        *either.encode("one"),
        either.video_token_id,
        *either.encode("two"),
        either.audio_token_id,
    ]
    as_words = either.encode(text)
    assert not {either.video_token_id, either.audio_token_id} & set(as_words)
    assert either.decode(as_words) == text


@given(parts=PARTS, num_video=st.integers(0, 40), num_audio=st.integers(0, 12))
def test_spans_cover_the_placeholder_ids(
    tokenizer: Tokenizer, parts: list[str | Slot], num_video: int, num_audio: int
) -> None:
    encoded = encode_prompt(tokenizer, parts, num_video_tokens=num_video, num_audio_tokens=num_audio)
    slots = [part for part in parts if isinstance(part, Slot)]
    assert [span.kind for span in encoded.spans] == [slot.kind for slot in slots]
    inside: set[int] = set()
    for span in encoded.spans:
        is_video = span.kind == "video"
        assert span.length == (num_video if is_video else num_audio)
        run = encoded.input_ids[span.start : span.start + span.length]
        assert run == [tokenizer.video_token_id if is_video else tokenizer.audio_token_id] * span.length
        inside |= set(range(span.start, span.start + span.length))
    outside = [token for index, token in enumerate(encoded.input_ids) if index not in inside]
    assert max(outside, default=0) < tokenizer.vocab_size
    bos = [tokenizer.bos_id] if parts and isinstance(parts[0], Slot) else []
    assert outside == bos + [token for segment in segment_ids(tokenizer, parts) for token in segment]
    assert not parts or encoded.input_ids[0] == tokenizer.bos_id


def test_the_places_are_decoded(either: Tokenizer) -> None:
    ids = [either.video_token_id, *either.encode("one"), either.audio_token_id]
    assert either.decode(ids) == "<video> one <audio>"
    assert either.decode(ids, placeholders=True) == "<ImageHere> one <AudioHere>"


def test_special_tokens_are_decoded(either: Tokenizer) -> None:
    ids = [either.bos_id, *either.encode("Rain"), either.eos_id]
    assert either.decode(ids).endswith("</s>")
    assert {either.unk_id, either.bos_id, either.eos_id, either.pad_id} == either.special_ids


def test_ids_out_of_range_are_refused(tokenizer: Tokenizer) -> None:
    with pytest.raises(ValueError, match=r"Token id 9999 is outside 0\.\.479\. Use the tokenizer of the model"):
        tokenizer.decode([5, 9999])


def test_missing_and_invalid_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"no such file\. Give the model folder's tokenizer\.model"):
        Tokenizer(tmp_path / "tokenizer.model")
    (tmp_path / "tokenizer.model").write_text("no model")
    with pytest.raises(CheckpointError, match="is not a SentencePiece model"):
        Tokenizer(tmp_path / "tokenizer.model")
