"""Training turns, training examples and padded batches: the types shared by both training dialects.

``training_text.py`` converts a list of :class:`TrainingTurn` to a :class:`TrainingExample`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from video_llama.conversation.conversation_video import MediaMessage
from video_llama.conversation.tokenization import Span
from video_llama.errors import DataError

IGNORE_INDEX = -100
"""Label of a token that the loss ignores."""

IMAGE_MARK = "<image>"
"""Position of the image in a LLaVA question."""


@dataclass(frozen=True)
class TrainingTurn:
    """A question with its media, and its answer.

    A LLaVA question may contain ``<image>``. The reference dialect inserts the image there, the serving dialect before
    the question.
    """

    question: str
    answer: str
    media: tuple[MediaMessage, ...] = ()


@dataclass(frozen=True)
class TrainingExample:
    """A training row: ``input_ids`` [L] with placeholder ids, ``labels`` [L] (-100 = no loss), the media ``spans``, and
    the ``text``."""

    input_ids: list[int]
    labels: list[int]
    spans: list[Span]
    text: str


def video_turns(rows: Sequence[dict[str, str]], media: MediaMessage) -> list[TrainingTurn]:
    """Return the turns of a VideoChat row's ``QA`` list ({"q", "a"}). The medium belongs to the first question."""
    try:
        return [TrainingTurn(row["q"], row["a"], () if index else (media,)) for index, row in enumerate(rows)]
    except KeyError as e:
        raise DataError(f"A QA row has no {e}. Each row needs 'q' and 'a'.") from e


def image_turns(rows: Sequence[dict[str, str]], media: MediaMessage) -> list[TrainingTurn]:
    """Return the turns of a LLaVA row's ``conversations`` ({"from": "human" | "gpt", "value"}), which must alternate.

    The image belongs to the question that contains ``<image>``, or to the first question.
    """
    if [row.get("from") for row in rows] != ["human", "gpt"] * (len(rows) // 2):
        raise DataError(
            "A conversation does not alternate between human and gpt, starting with human. Drop or correct the row."
        )
    questions = [row["value"] for row in rows[::2]]
    with_image = next((index for index, question in enumerate(questions) if IMAGE_MARK in question), 0)
    return [
        TrainingTurn(question, row["value"], (media,) if index == with_image else ())
        for index, (question, row) in enumerate(zip(questions, rows[1::2], strict=True))
    ]


@dataclass(frozen=True)
class PaddedBatch:
    """Rows [B, L], padded on the right. In the padding ``labels`` are -100 and ``attention_mask`` is 0."""

    input_ids: list[list[int]]
    labels: list[list[int]]
    attention_mask: list[list[int]]


def pad_batch(examples: Sequence[TrainingExample], pad_id: int, *, multiple_of: int = 1) -> PaddedBatch:
    """Pad to the longest row, rounded up to ``multiple_of``. The reference always pads with ``unk_id``."""
    longest = max(len(example.input_ids) for example in examples)
    width = -(-longest // multiple_of) * multiple_of

    def padded(row: list[int], value: int) -> list[int]:
        return row + [value] * (width - len(row))

    return PaddedBatch(
        [padded(example.input_ids, pad_id) for example in examples],
        [padded(example.labels, IGNORE_INDEX) for example in examples],
        [padded([1] * len(example.input_ids), 0) for example in examples],
    )
