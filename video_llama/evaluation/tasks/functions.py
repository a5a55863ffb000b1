"""Functions of the YAML tasks for lmms-eval.

The annotation file of a task is named by an environment variable, because lmms-eval has no argument for it:
VIDEO_LLAMA_MSVD_QA for the task ``msvd_qa``, and VIDEO_LLAMA_MSVD_QA_MEDIA for the folder of the media (default: the
folder of the annotation file). Prompts and figures are those of ``video-llama evaluate``.
"""

from __future__ import annotations

import mimetypes
import os
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from video_llama.datasets.question_rows import QuestionRow
from video_llama.errors import DataError, MissingExtraError
from video_llama.evaluation.config import BenchmarkConfig
from video_llama.evaluation.layouts import read_layout
from video_llama.evaluation.metrics import marks

DEFAULTS = BenchmarkConfig(data=Path("unused"))
"""The prompts of the tasks."""


def _docs(task: str, layout: str, dataset: Any) -> Any:
    """Return the rows of the annotation file that the variables of the task name, as a Hugging Face data set."""
    try:
        from datasets import Dataset
    except ModuleNotFoundError as error:
        raise MissingExtraError("datasets", "evaluate") from error
    variable = f"VIDEO_LLAMA_{task.upper()}"
    data = os.environ.get(variable)
    if not data:
        raise DataError(f"{variable} is not set. Set it to the annotation file of {task}.")
    media_dir = os.environ.get(f"{variable}_MEDIA")
    rows = read_layout(layout, Path(data), Path(media_dir) if media_dir else None)
    return Dataset.from_list([{**asdict(row), **_lists(row)} for row in rows])


def _lists(row: QuestionRow) -> dict[str, list[str]]:
    return {name: list(getattr(row, name)) for name in ("media", "answers", "choices", "captions")}


msvd_qa_docs = partial(_docs, "msvd_qa", "msvd-qa")
msrvtt_qa_docs = partial(_docs, "msrvtt_qa", "msrvtt-qa")
tgif_qa_docs = partial(_docs, "tgif_qa", "tgif-qa")
tgif_qa_choices_docs = partial(_docs, "tgif_qa_choices", "tgif-qa")
music_avqa_docs = partial(_docs, "music_avqa", "music-avqa")
avsd_docs = partial(_docs, "avsd", "avsd")
question_rows_docs = partial(_docs, "question_rows", "rows")


def row_of(doc: dict[str, Any]) -> QuestionRow:
    """Return the row of a document of lmms-eval."""
    values: dict[str, Any] = dict(doc)
    for name in ("media", "answers", "choices", "captions"):
        values[name] = tuple(values[name] or ())
    return QuestionRow(**values)


def question(doc: dict[str, Any], lmms_eval_specific_kwargs: Any = None) -> str:
    """Return the question, with lettered choices if the row has some."""
    row = row_of(doc)
    return DEFAULTS.letter_question(row) if row.choices else DEFAULTS.open_question(row)


def media(doc: dict[str, Any]) -> list[str]:
    """Return the paths of the media, for models that take no messages."""
    return list(doc["media"])


def messages(doc: dict[str, Any], lmms_eval_specific_kwargs: Any = None) -> list[dict[str, Any]]:
    """Return the media with their time range, and the question, as one message."""
    content = [_media_content(path, doc) for path in doc["media"]]
    return [{"role": "user", "content": [*content, {"type": "text", "text": question(doc)}]}]


def _media_content(path: str, doc: dict[str, Any]) -> dict[str, Any]:
    kind = (mimetypes.guess_type(path)[0] or "").partition("/")[0]
    if kind in ("image", "audio") and not path.endswith(".gif"):
        return {"type": kind, "url": path}
    return {"type": "video", "url": path, "start_time": doc["start"], "end_time": doc["end"]}


def target(doc: dict[str, Any]) -> str:
    """Return the first accepted answer."""
    expected = [*doc["answers"], *doc["captions"]]
    return expected[0] if expected else ""


def results(doc: dict[str, Any], answers: list[str]) -> dict[str, float]:
    """Return the figures of an answer: 1 if it is correct, else 0."""
    row = row_of(doc)
    expected = {"answers": list(row.answers), "choices": list(row.choices)}
    found = marks({"answer": answers[0], "expected": expected, "scores": [], "error": None})
    return {name: float(mark) for name, mark in found.items()}
