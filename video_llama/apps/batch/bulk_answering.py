"""Answer a batch whose media are read. In: rows and media. Out: one result per row, as plain data for JSON.

A result has the keys id, media, question, answer, error and record. Times are not part of it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from video_llama.apps.batch.engines import BatchResult, ModelDescription
from video_llama.apps.batch.reading import ReadBatch
from video_llama.apps.media.pool import MediaNeeds
from video_llama.chat import Answer, Assistant, Decoding, MediaOptions
from video_llama.chat.engine import EncodedMedium, PreparedTurn
from video_llama.datasets.question_rows import QuestionRow
from video_llama.errors import MediaError, PromptError
from video_llama.evaluation.answering import MediaKey, error_line, short_record


def load_bulk_answerer(load: Callable[[int | None], Assistant], decoding: Decoding, number: int | None) -> BulkAnswerer:
    """Load the model for a worker; see ``evaluation.workers``."""
    return BulkAnswerer(load(number), decoding)


class BulkAnswerer:
    """Answers batches. A medium that rows of a batch, or consecutive batches, share is encoded once."""

    def __init__(self, assistant: Assistant, decoding: Decoding) -> None:
        self._assistant, self._decoding = assistant, decoding
        self._encoded: dict[MediaKey, EncodedMedium] = {}

    def description(self) -> ModelDescription:
        """Return the description of the model."""
        return ModelDescription(MediaNeeds.of(self._assistant.engine), self._assistant.engine.weights)

    def __call__(self, batch: ReadBatch) -> BatchResult:
        """Return the results of a batch. Media that cannot be read, and prompts that do not fit into the context, are
        errors of their rows."""
        start = time.perf_counter()
        decoding = self._decoding.resolved(self._assistant.engine.context_length)
        self._encoded = {key: self._encoded[key] for key in batch.media if key in self._encoded}
        prepared = [self._prepared(row, batch, decoding) for row in batch.rows]
        encoded = time.perf_counter()
        turns = [turn for turn in prepared if isinstance(turn, PreparedTurn)]
        answers = iter(self._assistant.answer(turns) if turns else ())
        rows = [
            self._result(row, turn, None if isinstance(turn, str) else next(answers))
            for row, turn in zip(batch.rows, prepared, strict=True)
        ]
        return BatchResult(rows, encoded - start, time.perf_counter() - encoded)

    def _prepared(self, row: QuestionRow, batch: ReadBatch, decoding: Decoding) -> PreparedTurn | str:
        """Return the prompt of a row, or its error."""
        assert row.question is not None, "BatchInput.rows checks it"
        media = []
        try:
            for path in row.media:
                key = (path, row.start, row.end)
                read = batch.media[key]
                if isinstance(read, str):
                    return read
                if key not in self._encoded:
                    self._encoded[key] = self._assistant.engine.encode(read, MediaOptions())
                media.append(self._encoded[key])
            return self._assistant.prepare(media, row.question, MediaOptions(), decoding)
        except (MediaError, PromptError) as error:
            return error_line(error)

    def _result(self, row: QuestionRow, turn: PreparedTurn | str, answer: Answer | None) -> dict[str, Any]:
        return {
            "id": row.id,
            "media": list(row.media),
            "question": row.question,
            "answer": None if answer is None else answer.text,
            "error": turn if isinstance(turn, str) else None,
            "record": None
            if isinstance(turn, str)
            else short_record(self._assistant, turn, None if answer is None else answer.record),
        }
