"""The reference's training dialect. ``tests/conversation/test_golden.py`` compares every stored text and id."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conversation.test_training_text import COUNTS, VIDEO, labelled
from video_llama.conversation import IGNORE_INDEX, Tokenizer, TrainingTurn, training_example
from video_llama.conversation.training_reference import MAX_LENGTH, reference_example


def test_the_reference_dialect_differs_from_serving(llama_tokenizer: Path) -> None:
    """``##``, ``#`` of a human turn have labels in the reference dialect only (golden NOTES.md 7)."""
    llama = Tokenizer(llama_tokenizer)
    turns = [TrainingTurn("Who?", "A dog.", (VIDEO,))]
    reference = training_example(llama, turns, dialect="reference", **COUNTS)
    assert reference.text.startswith("\n\n###Human: ")
    assert labelled(reference)[0] == [2277, 29937]
    assert [llama.decode(run) for run in labelled(training_example(llama, turns, **COUNTS))] == ["A dog.###"]


@pytest.mark.parametrize("is_llama_2", [False, True])
def test_text_and_media_are_cut_at_the_length(tokenizer: Tokenizer, is_llama_2: bool) -> None:
    turns = [TrainingTurn("Who?", "A dog. " * 200, (VIDEO,))]
    example = reference_example(tokenizer, turns, is_llama_2, **COUNTS)
    assert len(example.input_ids) == len(example.labels) == MAX_LENGTH == 512
    (span,) = example.spans
    assert span.length == 32
    within = reference_example(tokenizer, turns, is_llama_2, **COUNTS, max_length=span.start + 5)
    assert [(kept.start, kept.length) for kept in within.spans] == [(span.start, 5)]
    before = reference_example(tokenizer, turns, is_llama_2, **COUNTS, max_length=span.start)
    assert before.spans == []


def test_an_answer_with_the_instruction_mark_has_no_labels_under_llama_2(tokenizer: Tokenizer) -> None:
    turns = [TrainingTurn("Who?", "A dog [/INST] barks.")]
    assert set(reference_example(tokenizer, turns, True, **COUNTS).labels) == {IGNORE_INDEX}
    assert set(reference_example(tokenizer, turns, False, **COUNTS).labels) != {IGNORE_INDEX}
