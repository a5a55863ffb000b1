"""The harness does not matter: one table of the same questions through every way of asking.

Each way gives the hash of the prompt's token ids, the frames and the sound clips with their seconds, and the greedy
answer. The way through transformers gives ids and arrays, which are compared with those of the chat.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import video_llama
from tests.cli.conftest import invoke
from tests.evaluation.conftest import read_jsonl, write_rows
from video_llama.chat import Assistant, model_path
from video_llama.chat.record import prompt_hash
from video_llama.cli.evaluate import load_for_worker
from video_llama.cli.options import ModelOptions
from video_llama.evaluation.config import BenchmarkConfig
from video_llama.evaluation.run import evaluate

QUESTIONS = [
    ("square_with_hum.mp4", "What colour is it?"),
    ("square_with_hum.mp4", "What do you see and hear?"),
    ("two_shapes.mp4", "What comes first?"),
    ("silent_star.mp4", "How does it move?"),
]
MAX_NEW_TOKENS = 40

Asked = tuple[str, list[Any], str]
"""Hash of the prompt's ids, seconds and indices of frames and sound clips, answer."""


@pytest.fixture(scope="module")
def clips_dir(repository) -> Path:
    return repository / "examples"


@pytest.fixture(scope="module")
def miniature() -> Assistant:
    return video_llama.load("miniature", device="cpu")


@pytest.fixture(scope="module")
def expected(miniature, clips_dir) -> list[Asked]:
    """The answers of ``Chat``."""
    answers = [miniature.chat(clips_dir / clip).ask(text, max_new_tokens=MAX_NEW_TOKENS) for clip, text in QUESTIONS]
    return [asked(answer.record.as_dict(), answer.text) for answer in answers]


def asked(record: dict[str, Any], answer: str) -> Asked:
    media = [[medium["frames"], medium["sound"]] for medium in record["media"]]
    return record["prompt_sha256"], media, answer


def by_ask(clips_dir: Path, tmp_path: Path) -> list[Asked]:
    options = ("--json", "--device", "cpu", "--max-new-tokens", MAX_NEW_TOKENS)
    records = [json.loads(invoke("ask", clips_dir / clip, text, *options).stdout) for clip, text in QUESTIONS]
    return [asked(record, record["answer"]) for record in records]


def by_batch(clips_dir: Path, tmp_path: Path) -> list[Asked]:
    requests = [(str(clips_dir / clip), text) for clip, text in QUESTIONS]
    answers = video_llama.load("miniature", device="cpu").ask_batch(requests, max_new_tokens=MAX_NEW_TOKENS)
    return [asked(answer.record.as_dict(), answer.text) for answer in answers]


def by_serve(clips_dir: Path, tmp_path: Path) -> list[Asked]:
    pytest.importorskip("fastapi")
    openai = pytest.importorskip("openai")
    from tests.apps.server.conftest import data_url, running

    def message(clip: str, text: str) -> Any:
        video = {"type": "video_url", "video_url": {"url": data_url((clips_dir / clip).read_bytes())}}
        return [{"role": "user", "content": [video, {"type": "text", "text": text}]}]

    found = []
    with running(video_llama.load("miniature", device="cpu")) as server:
        client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)
        for clip, text in QUESTIONS:
            reply = client.chat.completions.create(
                model="miniature",
                messages=message(clip, text),
                max_tokens=MAX_NEW_TOKENS,
                extra_body={"video_llama": {"record": True}},
            )
            found.append(asked(reply.video_llama["records"][0], reply.choices[0].message.content))
        client.close()
    return found


def by_evaluate(clips_dir: Path, tmp_path: Path) -> list[Asked]:
    data = write_rows(tmp_path / "rows.jsonl", [{"media": clip, "question": text} for clip, text in QUESTIONS])
    config = BenchmarkConfig(data=data, media_dir=clips_dir, answers={"max_new_tokens": MAX_NEW_TOKENS})
    evaluate(config, tmp_path / "run", partial(load_for_worker, ModelOptions(device="cpu")))
    return [asked(row["record"], row["answer"]) for row in read_jsonl(tmp_path / "run" / "answers.jsonl")]


def by_batch_command(clips_dir: Path, tmp_path: Path) -> list[Asked]:
    data = write_rows(tmp_path / "rows.jsonl", [{"media": clip, "question": text} for clip, text in QUESTIONS])
    options = ("--media-dir", clips_dir, "--device", "cpu", "--max-new-tokens", MAX_NEW_TOKENS, "--batch-size", 3)
    assert invoke("batch", data, tmp_path / "out.jsonl", *options).exit_code == 0
    return [asked(row["record"], row["answer"]) for row in read_jsonl(tmp_path / "out.jsonl")]


def by_lmms_eval(clips_dir: Path, tmp_path: Path) -> list[Asked]:
    """The model class with the messages of our task; ``test_lmms.py`` runs the command."""
    pytest.importorskip("lmms_eval", reason="lmms-eval is not installed: docs/evaluation.md")
    from lmms_eval.api.instance import Instance

    from video_llama.evaluation.lmms import VideoLlamaChat
    from video_llama.evaluation.tasks.functions import messages

    empty = {"answers": [], "choices": [], "captions": [], "start": None, "end": None, "category": None}
    docs = [{**empty, "id": text, "media": [str(clips_dir / clip)], "question": text} for clip, text in QUESTIONS]
    record_file = tmp_path / "records.jsonl"
    model = VideoLlamaChat(device="cpu", record_file=str(record_file))
    model.task_dict = {"task": {"test": docs}}
    settings = {"max_new_tokens": MAX_NEW_TOKENS, "temperature": 0, "until": []}
    requests = [
        Instance(
            "generate_until",
            ("", messages, dict(settings), number, "task", "test"),
            idx=0,
            metadata={"task": "task", "doc_id": number, "repeats": 1},
        )
        for number in range(len(docs))
    ]
    answers = [result.text for result in model.generate_until(requests)]
    return [asked(record, answer) for record, answer in zip(read_jsonl(record_file), answers, strict=True)]


@pytest.mark.parametrize(
    "way", [by_ask, by_batch, by_serve, by_evaluate, by_batch_command, by_lmms_eval], ids=lambda way: way.__name__
)
def test_the_way_of_asking_does_not_matter(way: Callable[[Path, Path], list[Asked]], expected, clips_dir, tmp_path):
    assert way(clips_dir, tmp_path) == expected
    assert len({answer for _, _, answer in expected}) > 2


def test_transformers(miniature, expected, clips_dir):
    """AutoProcessor and ``generate`` have the ids, the frames, the sound and the answer of the chat."""
    from transformers import AutoModelForImageTextToText, AutoProcessor

    import video_llama.auto  # noqa: F401

    folder = model_path("miniature")
    processor, model = AutoProcessor.from_pretrained(folder), AutoModelForImageTextToText.from_pretrained(folder)
    for (clip, text), (prompt_sha256, _, answer) in zip(QUESTIONS, expected, strict=True):
        video = {"type": "video", "path": str(clips_dir / clip)}
        messages = [{"role": "user", "content": [video, {"type": "text", "text": text}]}]
        inputs = processor.apply_chat_template(
            messages, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
        )
        ids = inputs["input_ids"][0].tolist()
        assert prompt_hash(ids) == prompt_sha256
        medium = miniature.read(clips_dir / clip)
        frames = miniature.engine._video_processor(medium.frames.frames)
        np.testing.assert_array_equal(inputs["pixel_values_videos"][0], frames)
        if medium.sound is not None:
            np.testing.assert_array_equal(inputs["input_features"][0], miniature.mel_clips(medium))
        generated = model.generate(**inputs, max_new_tokens=MAX_NEW_TOKENS, do_sample=False)[0, len(ids) :]
        decoded = processor.decode(generated, skip_special_tokens=True)
        assert decoded.split(miniature.engine.template.stop_string)[0].strip() == answer
