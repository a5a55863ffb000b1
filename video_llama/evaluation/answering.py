"""Answer a batch of rows with a model. In: rows. Out: one result per row, as plain data for JSON.

A result has the keys id, media, question, answer, error, expected, scores and record. Its values depend on the row, the
batch, the settings and the weights only: times are not part of it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from video_llama.chat import Answer, Assistant, Record
from video_llama.chat.engine import Effort, EncodedMedium, PreparedTurn
from video_llama.chat.likelihood import AnswerScore, answer_scores
from video_llama.datasets.question_rows import QuestionRow
from video_llama.errors import ContextLengthError, MediaError
from video_llama.evaluation.config import BenchmarkConfig

Result = dict[str, Any]

MediaKey = tuple[str, float | None, float | None]


@dataclass
class _Asked:
    """A row with what was computed for it."""

    row: QuestionRow
    turn: PreparedTurn | None = None
    scores: list[AnswerScore] = field(default_factory=list)
    error: str | None = None


AssistantLoader = Callable[[int | None], Assistant]
"""Loads the model for a worker of this number; None without worker processes."""


def load_row_answerer(load: AssistantLoader, config: BenchmarkConfig, number: int | None) -> RowAnswerer:
    """Load the model for a worker."""
    return RowAnswerer(load(number), config)


class RowAnswerer:
    """Answers batches of rows. A medium that consecutive rows share is read and encoded once."""

    def __init__(self, assistant: Assistant, config: BenchmarkConfig) -> None:
        self._assistant, self._config = assistant, config
        self._decoding = config.answers.decoding().resolved(assistant.engine.context_length)
        self._encoded: dict[MediaKey, EncodedMedium] = {}

    def description(self) -> dict[str, Any]:
        """Return the description of the weights, as in the records of answers."""
        return self._assistant.engine.weights

    def __call__(self, rows: Sequence[QuestionRow]) -> list[Result]:
        """Return the results of ``rows``, in order. Media that cannot be read, and prompts that do not fit into the
        context, are errors of their rows. Raises DataError for rows without a question."""
        asked = [self._prepared(row) for row in rows]
        self._keep_only(rows[-1])
        generated = [each for each in asked if each.turn is not None and self._generates(each.row)]
        answers = self._assistant.answer([each.turn for each in generated if each.turn]) if generated else []
        by_id = {each.row.id: answer for each, answer in zip(generated, answers, strict=True)}
        return [self._result(each, by_id.get(each.row.id)) for each in asked]

    def _generates(self, row: QuestionRow) -> bool:
        return not row.choices or "letter" in self._config.choice_methods

    def _prepared(self, row: QuestionRow) -> _Asked:
        config, engine, asked = self._config, self._assistant.engine, _Asked(row)
        options = config.frames.options(row, self._assistant.settings.num_frames)
        try:
            media = [self._medium(path, row) for path in row.media]
            if row.choices and "likelihood" in config.choice_methods:
                turn = self._assistant.prepare(media, config.open_question(row), options, self._decoding)
                asked.scores, asked.turn = answer_scores(engine, turn, row.choices), turn
            if self._generates(row):
                question = config.letter_question(row) if row.choices else config.open_question(row)
                asked.turn = self._assistant.prepare(media, question, options, self._decoding)
        except (MediaError, ContextLengthError) as error:
            return _Asked(row, error=error_line(error))
        return asked

    def _medium(self, path: str, row: QuestionRow) -> EncodedMedium:
        key = (path, row.start, row.end)
        if key not in self._encoded:
            options = self._config.frames.options(row, self._assistant.settings.num_frames)
            self._encoded[key] = self._assistant.engine.encode(path, options)
        return self._encoded[key]

    def _keep_only(self, row: QuestionRow) -> None:
        keys = [(path, row.start, row.end) for path in row.media]
        self._encoded = {key: self._encoded[key] for key in keys if key in self._encoded}

    def _result(self, asked: _Asked, answer: Answer | None) -> Result:
        row, turn = asked.row, asked.turn
        return {
            "id": row.id,
            "media": list(row.media),
            "question": None if turn is None else turn.question,
            "answer": None if answer is None else answer.text,
            "error": asked.error,
            "expected": expected_of(row),
            "scores": [
                {"choice": score.text, "sum": round(score.sum, 4), "mean": round(score.mean, 4)}
                for score in asked.scores
            ],
            "record": short_record(self._assistant, turn, None if answer is None else answer.record),
        }


def expected_of(row: QuestionRow) -> dict[str, Any]:
    """Return what the answer of a row is compared with."""
    expected: dict[str, Any] = {"answers": row.answers, "choices": row.choices, "captions": row.captions}
    kept = {name: list(value) for name, value in expected.items() if value}
    return {**kept, "category": row.category}


def error_line(error: Exception) -> str:
    """Return the class and the message of an error in one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"


def short_record(assistant: Assistant, turn: PreparedTurn | None, record: Record | None) -> dict[str, Any] | None:
    """Return the prompt with its hash, the frames and their seconds, the weights, and the decoding settings."""
    if turn is None:
        return None
    if record is None:  # no answer was generated
        record = assistant.engine.record(turn, assistant.engine.writer(turn), Effort(), ())
    values = record.as_dict()
    kept = ("media", "modalities", "prompt", "prompt_sha256", "decoding", "tokens", "warnings", "neutralized")
    return {"weights": assistant.name, **{name: values[name] for name in kept}, "stop_reason": record.stop_reason}
