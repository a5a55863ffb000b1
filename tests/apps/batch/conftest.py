"""Rows about the clips of the tests, and runs with the tiny model in this process."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from video_llama.apps.batch.inputs import BatchInput
from video_llama.apps.batch.run import BatchRunConfig, run_batch
from video_llama.chat import Decoding, MediaOptions
from video_llama.cli.evaluate import load_for_worker
from video_llama.cli.options import ModelOptions
from video_llama.processors.sampling import FrameSampling

QUESTIONS = ("What do you see?", "What moves?")


def default_media(num_frames: int) -> MediaOptions:
    return MediaOptions(FrameSampling(num_frames))


def write_rows(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.fixture(scope="session")
def table(clips) -> Path:
    """Six rows: two questions about one video, a missing file, a segment, two media, and a sound file."""
    video, sound = clips["video"].name, clips["audio" if "audio" in clips else "sound"].name
    rows = [
        {"id": "v", "media": video, "questions": list(QUESTIONS)},
        {"id": "absent", "media": "absent.mp4"},
        {"id": "part", "media": video, "question": QUESTIONS[0], "start": 1.0, "end": 2.0},
        {"id": "both", "media": [video, sound]},
        {"id": "s", "media": sound, "question": "What do you hear?"},
    ]
    return write_rows(clips["video"].parent / "batch.jsonl", rows)


@pytest.fixture(scope="session")
def load(model_path):
    """Loads the tiny model, also in a worker process."""
    return partial(load_for_worker, ModelOptions(model=str(model_path), device="cpu"))


@pytest.fixture
def make_config(table, tmp_path):
    """Settings with short answers and batches that end between the questions of a clip."""

    def make(name: str = "out.jsonl", source: Any = table, question: str | None = "What?", **values: Any) -> Any:
        data = BatchInput(str(source), question)
        return BatchRunConfig(
            data, tmp_path / name, default_media, Decoding(max_new_tokens=4), **{"batch_size": 3, **values}
        )

    return make


@pytest.fixture
def finished(make_config, load):
    """The settings of a finished run, and its summary."""
    config = make_config()
    return config, run_batch(config, load)
