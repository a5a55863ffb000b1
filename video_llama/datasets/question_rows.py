r"""Questions about media: rows of a JSON, JSONL, CSV or TSV file.

```
{"id": "7", "media": "a.mp4", "question": "What colour is it?", "answer": "red", "category": "colour"}
{"id": "8", "media": "a.mp4", "question": "Where does it go?", "choices": ["left", "right"], "answer": "left"}
{"id": "9", "media": ["a.mp4", "b.wav"], "start": 2.0, "end": 6.5, "captions": ["A red circle.", "A circle moves."]}
```
``id`` is the number of the row if it is missing. ``media`` is a path or a list of paths, relative to a given folder or
to that of the file. ``questions`` is a list of questions, which become rows ``7/1``, ``7/2``. ``answer`` (or
``answers``) is a text or a list of accepted texts. With ``choices`` it is the text of a choice, its letter, or its
index (a number, from 0). In a table, lists are JSON, or are separated by ``|``. Other keys are ignored.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from string import ascii_uppercase
from typing import Any

from video_llama.datasets.tables import named_rows
from video_llama.errors import DataError
from video_llama.files import parse_json

LETTERS = ascii_uppercase
TABLES = (".csv", ".tsv")


@dataclass(frozen=True)
class QuestionRow:
    """A question about media. Without ``answers`` and ``captions`` there is nothing to compare an answer with."""

    id: str
    media: tuple[str, ...]
    """Paths of the media, in prompt order; URLs (``scheme://``) are kept as they are."""
    question: str | None = None
    answers: tuple[str, ...] = ()
    """Accepted answers; with ``choices``, the correct choice."""
    choices: tuple[str, ...] = ()
    captions: tuple[str, ...] = ()
    """Reference captions, for a row that asks for a description."""
    start: float | None = None
    """Start of the segment, in seconds."""
    end: float | None = None
    """End of the segment, in seconds."""
    category: str | None = None

    @property
    def correct_choice(self) -> int:
        """Index of the correct choice."""
        return self.choices.index(self.answers[0])


def question_rows(path: Path, media_dir: Path | None = None) -> Iterator[QuestionRow]:
    """Yield the rows of a file. ``media_dir`` is the folder of relative paths (default: the folder of the file).

    Raises DataError, with the row, for a row without media, a key of the wrong type, and an id that occurs twice.
    """
    folder, is_table = media_dir or path.parent, path.suffix in TABLES
    seen: set[str] = set()
    for name, values in named_rows(path):
        if not isinstance(values, dict):
            raise DataError(f"{name}: the row is a {type(values).__name__}, not an object. Correct or remove it.")
        for row in _rows(_Values(name, values, is_table), folder):
            if row.id in seen:
                raise DataError(f"{name}: the id {row.id!r} occurs twice. Give each row its own id.")
            seen.add(row.id)
            yield row


def rows_of(name: str, values: dict[str, Any], folder: Path = Path()) -> Iterator[QuestionRow]:
    """Yield the rows of one object with the keys above. ``name`` is for errors. Raises DataError."""
    return _rows(_Values(name, values, False), folder)


def media_path(folder: Path, name: str) -> str:
    """Return the path of a medium; an absolute path or a URL is returned as it is."""
    return name if "://" in name else str(folder / name)


@dataclass(frozen=True)
class _Values:
    """The values of a row, converted to the types of ``QuestionRow``."""

    name: str
    row: dict[Any, Any]
    is_table: bool

    def get(self, key: str) -> Any:
        value = self.row.get(key)
        return None if value == "" and self.is_table else value

    def text(self, key: str) -> str | None:
        value = self.get(key)
        if value is None or (isinstance(value, str) and value.strip()):
            return value
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            return str(value)
        raise DataError(f"{self.name}: {key!r} is {value!r}, not a text. Correct or remove the row.")

    def seconds(self, key: str) -> float | None:
        value = self.get(key)
        if value is None:
            return None
        try:
            seconds = math.nan if isinstance(value, bool) else float(value)
        except (TypeError, ValueError):
            seconds = math.nan
        if not seconds >= 0 or math.isinf(seconds):
            raise DataError(f"{self.name}: {key!r} is {value!r}. Give seconds, 0 or more.")
        return seconds

    def texts(self, *keys: str) -> tuple[str, ...]:
        """Return the texts of the first of ``keys`` that has a value; a single text is a list of one."""
        key = next((key for key in keys if self.get(key) is not None), None)
        if key is None:
            return ()
        value = self.get(key)
        if self.is_table:
            value = self._listed(key, value)
        values = value if isinstance(value, list) else [value]
        return tuple(_Values(self.name, {key: each}, False).text(key) or "" for each in values)

    def _listed(self, key: str, text: str) -> Any:
        if not text.startswith("["):
            return text.split("|")
        try:
            return parse_json(text)
        except ValueError as error:
            raise DataError(f"{self.name}: {key!r} is not a JSON list: {error}. Correct the row.") from error


def _rows(values: _Values, folder: Path) -> Iterator[QuestionRow]:
    name, media = values.name, values.texts("media")
    if not media:
        raise DataError(f"{name}: the row has no 'media'. Add the path of a medium, or remove the row.")
    choices, answers = values.texts("choices"), values.texts("answer", "answers")
    row = QuestionRow(
        id=values.text("id") or name.rpartition(":")[2],
        media=tuple(media_path(folder, each) for each in media),
        question=values.text("question"),
        answers=(correct_choice(values.get("answer"), choices, name),) if choices else answers,
        choices=choices,
        captions=values.texts("captions", "caption"),
        start=values.seconds("start"),
        end=values.seconds("end"),
        category=values.text("category"),
    )
    if row.end is not None and row.end <= (row.start or 0.0):
        raise DataError(f"{name}: 'end' ({row.end:g}) is not after 'start' ({row.start or 0:g}). Correct the row.")
    questions = values.texts("questions")
    if not questions:
        yield row
    for number, question in enumerate(questions, start=1):
        yield replace(row, id=f"{row.id}/{number}", question=question)


def correct_choice(answer: Any, choices: Sequence[str], name: str) -> str:
    """Return the choice that ``answer`` names by its text, its index (a number, from 0) or its letter.

    Raises DataError if there is none, and if two choices are equal.
    """
    if len(set(choices)) < len(choices):
        raise DataError(f"{name}: two choices are equal: {list(choices)}. Correct or remove the row.")
    if answer in choices:
        return str(answer)
    index = answer
    if isinstance(answer, str):
        letter = answer.strip("() ").upper()
        index = LETTERS.find(letter) if len(letter) == 1 else -1
    if isinstance(index, bool) or not isinstance(index, int) or not 0 <= index < len(choices):
        raise DataError(f"{name}: the answer {answer!r} is none of the choices {list(choices)}. Correct the row.")
    return choices[index]
