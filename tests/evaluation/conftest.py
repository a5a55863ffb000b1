"""Rows about the clips of the tests, settings for the tiny model, and results made by hand."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from video_llama.cli.evaluate import load_for_worker
from video_llama.cli.options import ModelOptions
from video_llama.evaluation.config import BenchmarkConfig

QUESTIONS = ["What do you see?", "What moves?", "What colour is it?"]


def write_rows(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.fixture(scope="session")
def rows(clips) -> list[dict[str, Any]]:
    """Nine rows: open questions, choices, captions, a segment, and questions about the sound of a file."""
    video, image, sound = (clips[name].name for name in ("video", "image", "sound"))
    return [
        {"id": "v0", "media": video, "question": QUESTIONS[0], "answer": "a circle", "category": "see"},
        {"id": "v1", "media": video, "question": QUESTIONS[1], "answer": ["a square", "square"], "category": "see"},
        {"id": "v2", "media": video, "question": QUESTIONS[2], "choices": ["red", "blue"], "answer": "red"},
        {"id": "i0", "media": image, "question": QUESTIONS[0], "answer": "a circle"},
        {"id": "i1", "media": image, "captions": ["a red circle", "there is a circle"]},
        {"id": "s0", "media": sound, "question": "What do you hear?", "answer": "a tone", "category": "hear"},
        {"id": "vs", "media": [video, sound], "question": QUESTIONS[1], "answer": "no"},
        {"id": "part", "media": video, "question": QUESTIONS[0], "answer": "no", "start": 1.0, "end": 2.0},
        {"id": "c1", "media": video, "captions": ["a circle moves"]},
    ]


@pytest.fixture(scope="session")
def data(rows, clips) -> Path:
    return write_rows(clips["video"].parent / "questions.jsonl", rows)


@pytest.fixture
def config(data) -> BenchmarkConfig:
    """Settings with short answers and batches that end within the rows of a clip."""
    return BenchmarkConfig(data=data, batch_size=2, answers={"max_new_tokens": 6})


@pytest.fixture
def load(model_path):
    """Loads the tiny model, also in a worker process."""
    return partial(load_for_worker, ModelOptions(model=str(model_path), device="cpu"))


def result(row_id: str = "1", *, answer: str | None = None, media: str = "a.mp4", **values: Any) -> dict[str, Any]:
    """A result as it is stored, with ``answers``, ``choices``, ``captions`` and ``category`` as what is expected."""
    names = ("answers", "choices", "captions")
    expected = {name: values.pop(name) for name in names if name in values} | {"category": values.pop("category", None)}
    whole = {"id": row_id, "media": [media], "question": "?", "answer": answer, "error": None, "scores": []}
    return {**whole, "expected": expected, "record": None, **values}
