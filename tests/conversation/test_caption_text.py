"""Ids and labels of captions."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from video_llama.conversation import (
    IGNORE_INDEX,
    Slot,
    Tokenizer,
    caption_example,
    caption_ids,
    caption_prompt,
    caption_targets,
    encode_prompt,
)
from video_llama.errors import ConfigError

CAPTION = st.text("abcdefgh ,é", min_size=1, max_size=120).map(str.strip).filter(bool)
END = st.sampled_from(["\n", "###", "</s>"])


@given(text=CAPTION, end=END, limit=st.integers(8, 64))
def test_a_truncated_caption_keeps_its_end_symbol(tokenizer: Tokenizer, text: str, end: str, limit: int) -> None:
    whole = tokenizer.encode(text + end)
    ours = caption_ids(tokenizer, text, end_sym=end, max_text_tokens=limit)
    reference = caption_ids(tokenizer, text, end_sym=end, max_text_tokens=limit, dialect="reference")
    assert reference == whole[:limit]
    assert len(ours) == min(len(whole), limit)
    assert tokenizer.decode(ours).endswith(end)
    if len(whole) <= limit:
        assert ours == reference


@given(text=CAPTION, end=END)
def test_labels_cover_the_caption_and_its_end_symbol(tokenizer: Tokenizer, text: str, end: str) -> None:
    prompt = caption_prompt("<Image><ImageHere></Image> Describe it.", "###Human: {} ###Assistant: ")
    counts = {"num_video_tokens": 32, "num_audio_tokens": 8}
    example = caption_example(tokenizer, text, prompt=prompt, end_sym=end, max_text_tokens=400, **counts)
    front = encode_prompt(tokenizer, prompt, **counts).input_ids
    ids = tokenizer.encode(text + end)
    assert example.input_ids == front + ids
    assert example.labels == [IGNORE_INDEX] * len(front) + ids
    assert [(span.kind, span.length) for span in example.spans] == [("video", 32)]


def test_a_medium_without_text_follows_bos(tokenizer: Tokenizer) -> None:
    example = caption_example(
        tokenizer,
        "a dog",
        prompt=[Slot("audio")],
        end_sym="\n",
        max_text_tokens=32,
        num_video_tokens=32,
        num_audio_tokens=8,
    )
    assert example.input_ids[:9] == [tokenizer.bos_id] + [tokenizer.audio_token_id] * 8


def test_unknown_tokens_have_no_label_in_the_reference_only(tokenizer: Tokenizer) -> None:
    settings = {"end_sym": "\n", "max_text_tokens": 32}
    text = "a <unk> dog"
    place = tokenizer.encode(text).index(tokenizer.unk_id)
    ours = caption_targets(tokenizer, [text, "a"], **settings)  # type: ignore[arg-type]
    reference = caption_targets(tokenizer, [text, "a"], dialect="reference", **settings)  # type: ignore[arg-type]
    assert ours.input_ids == reference.input_ids
    assert (ours.labels[0][place], reference.labels[0][place]) == (tokenizer.unk_id, IGNORE_INDEX)
    assert ours.labels[1] == reference.labels[1]
    assert ours.labels[1][-1] == IGNORE_INDEX
    assert ours.attention_mask[1][-1] == 0


def test_templates_without_a_placeholder_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"must contain exactly one \{\}, the place of the instruction"):
        caption_prompt("<ImageHere>", "no place")
    with pytest.raises(ConfigError, match="must contain <ImageHere> exactly once"):
        caption_prompt("Describe it.")
