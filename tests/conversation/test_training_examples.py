"""Rows of annotation files as training turns, and the padding of a batch."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from video_llama.conversation import (
    Slot,
    TrainingExample,
    TrainingTurn,
    image_turns,
    media_message,
    pad_batch,
    video_turns,
)
from video_llama.errors import DataError

VIDEO = media_message(video=Slot("video"), sentence="The video contains 1 frames sampled at 0.0 seconds. ")


def test_rows_are_converted_to_turns() -> None:
    rows = [{"i": "", "q": "Who?", "a": "A dog."}, {"i": "", "q": "Where?", "a": "Here."}]
    assert video_turns(rows, VIDEO) == [TrainingTurn("Who?", "A dog.", (VIDEO,)), TrainingTurn("Where?", "Here.")]
    with pytest.raises(DataError, match=r"has no 'a'\. Each row needs 'q' and 'a'"):
        video_turns([{"q": "Who?"}], VIDEO)
    talk = [("human", "Hello?"), ("gpt", "Hello."), ("human", "<image>\nWho?"), ("gpt", "A dog.")]
    spoken = [{"from": who, "value": text} for who, text in talk]
    assert [turn.media for turn in image_turns(spoken, VIDEO)] == [(), (VIDEO,)]
    with pytest.raises(DataError, match="does not alternate"):
        image_turns(spoken[1:], VIDEO)


@given(st.lists(st.integers(1, 30), min_size=1, max_size=5), st.sampled_from([1, 8]))
def test_padding_is_on_the_right_and_has_no_labels(lengths: list[int], multiple: int) -> None:
    examples = [TrainingExample(list(range(5, 5 + n)), list(range(5, 5 + n)), [], "") for n in lengths]
    batch = pad_batch(examples, 0, multiple_of=multiple)
    width = -(-max(lengths) // multiple) * multiple
    for n, ids, labels, mask in zip(lengths, batch.input_ids, batch.labels, batch.attention_mask, strict=True):
        assert len(ids) == len(labels) == len(mask) == width
        assert (ids[n:], labels[n:], mask) == ([0] * (width - n), [-100] * (width - n), [1] * n + [0] * (width - n))
        assert ids[:n] == labels[:n] == list(range(5, 5 + n))
