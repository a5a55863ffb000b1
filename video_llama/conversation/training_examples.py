"""Training turns and examples: the types that both training dialects share, and the padding of a batch.

``training_text.py`` turns a list of :class:`TrainingTurn` into a :class:`TrainingExample`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from video_llama.conversation.conversation_video import MediaMessage
from video_llama.conversation.tokenization import Span
from video_llama.errors import DataError

IGNORE_INDEX = -100
"""The label of a token that the loss passes over."""

IMAGE_MARK = "<image>"
"""Where a LLaVA question has its picture."""


@dataclass(frozen=True)
class TrainingTurn:
    """A question, the media that come with it, and its answer.

    A LLaVA question may hold ``<image>``: the reference puts the picture there, the serving dialect in front.
    """

    question: str
    answer: str
    media: tuple[MediaMessage, ...] = ()


@dataclass(frozen=True)
class TrainingExample:
    """``input_ids`` with runs of placeholder ids, ``labels`` as long (-100 = no loss), the runs, and the text."""

    input_ids: list[int]
    labels: list[int]
    spans: list[Span]
    text: str


def video_turns(rows: Sequence[dict[str, str]], media: MediaMessage) -> list[TrainingTurn]:
    """Turns of a VideoChat row's ``QA`` list ({"q", "a"}); the medium goes with the first question."""
    try:
        return [TrainingTurn(row["q"], row["a"], () if index else (media,)) for index, row in enumerate(rows)]
    except KeyError as e:
        raise DataError(f"A QA row lacks {e}. Each needs 'q' and 'a'.") from e


def image_turns(rows: Sequence[dict[str, str]], media: MediaMessage) -> list[TrainingTurn]:
    """Turns of a LLaVA row's ``conversations`` ({"from": "human" | "gpt", "value"}), which must alternate.

    The picture goes with the question that holds ``<image>``, or with the first.
    """
    if [row.get("from") for row in rows] != ["human", "gpt"] * (len(rows) // 2):
        raise DataError("A conversation does not alternate human, gpt, human, gpt ... Drop the row, or repair it.")
    questions = [row["value"] for row in rows[::2]]
    with_image = next((index for index, question in enumerate(questions) if IMAGE_MARK in question), 0)
    return [
        TrainingTurn(question, row["value"], (media,) if index == with_image else ())
        for index, (question, row) in enumerate(zip(questions, rows[1::2], strict=True))
    ]


@dataclass(frozen=True)
class PaddedBatch:
    """Rows of equal length, padded on the right: ``labels`` with -100 there, ``attention_mask`` with 0."""

    input_ids: list[list[int]]
    labels: list[list[int]]
    attention_mask: list[list[int]]


def pad_batch(examples: Sequence[TrainingExample], pad_id: int, *, multiple_of: int = 1) -> PaddedBatch:
    """Pad to the longest, rounded up to ``multiple_of``. The reference pads with ``unk_id`` whatever the tokenizer."""
    longest = max(len(example.input_ids) for example in examples)
    width = -(-longest // multiple_of) * multiple_of

    def padded(row: list[int], value: int) -> list[int]:
        return row + [value] * (width - len(row))

    return PaddedBatch(
        [padded(example.input_ids, pad_id) for example in examples],
        [padded(example.labels, IGNORE_INDEX) for example in examples],
        [padded([1] * len(example.input_ids), 0) for example in examples],
    )
