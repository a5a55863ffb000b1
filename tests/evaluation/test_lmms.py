"""The model for lmms-eval: its answers and scores are those of chats, and it runs a local task without a network."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from tests.evaluation.conftest import QUESTIONS, read_jsonl, write_rows
from video_llama.errors import DataError
from video_llama.processors.sampling import FrameSampling

pytest.importorskip("lmms_eval", reason="lmms-eval is not installed: docs/evaluation.md")

from lmms_eval.api.instance import Instance

from video_llama.evaluation.lmms import VideoLlamaChat, decoding_of, media_source

SHORT = {"max_new_tokens": 6, "temperature": 0, "do_sample": False, "until": ["\n\n"]}


@pytest.fixture
def model(model_path, tmp_path):
    return VideoLlamaChat(pretrained=str(model_path), device="cpu", batch_size=2, record_file=str(tmp_path / "r.jsonl"))


def message(*content, role="user"):
    parts = [{"type": "text", "text": part} if isinstance(part, str) else part for part in content]
    return {"role": role, "content": parts}


def video(path, **times):
    return {"type": "video", "url": str(path), **times}


def ask(model, *conversations, settings=SHORT):
    """Answer conversations as the documents of a task."""
    model.task_dict = {"task": {"test": list(conversations)}}
    requests = [
        Instance(
            request_type="generate_until",
            arguments=("", lambda doc: doc, dict(settings), number, "task", "test"),
            idx=0,
            metadata={"task": "task", "doc_id": number, "repeats": 1},
        )
        for number in range(len(conversations))
    ]
    return model.generate_until(requests)


def test_answers_are_those_of_chats(model, assistant, clips, tmp_path):
    conversations = [[message(video(clips["video"]), question)] for question in QUESTIONS]
    conversations.append([message(video(clips["video"], start_time=1.0, end_time=2.0), QUESTIONS[0])])
    found = ask(model, *conversations)
    part = FrameSampling(assistant.settings.num_frames, start=1.0, end=2.0)
    asked = [(question, None) for question in QUESTIONS] + [(QUESTIONS[0], part)]
    answers = [
        assistant.chat(clips["video"], frames=frames).ask(question, max_new_tokens=6) for question, frames in asked
    ]
    assert [each.text for each in found] == [answer.text for answer in answers]
    assert [each.token_counts.input_tokens for each in found] == [each.record.tokens["prompt"] for each in answers]
    records = read_jsonl(tmp_path / "r.jsonl")
    assert [each["prompt_sha256"] for each in records] == [answer.record.prompt_sha256 for answer in answers]
    assert [each["media"] for each in records] == [answer.record.media for answer in answers]


def test_conversations(model, assistant, clips):
    system, first, second = "Be brief.", "What is it?", "And now?"
    history = [
        message(system, role="system"),
        message("What is", video(clips["video"]), "it?"),
        message("A circle.", role="assistant"),
        message(second),
    ]
    turn = model._turn(history, SHORT)
    assert turn.shown.resolved_system == system
    text = turn.shown.text()
    assert text.index("<ImageHere>") < text.index("What is\nit?") < text.index("A circle.") < text.index(second)
    with pytest.raises(DataError, match="The last message of a task is not of the user"):
        model._turn([message(first), message("x", role="assistant")], SHORT)


def test_images_and_sounds_from_memory(model, assistant, clips):
    picture = Image.open(clips["image"]).convert("RGB")
    samples = 0.5 * np.sin(np.arange(32000) / 20)
    image = {"type": "image", "url": picture}
    sound = {"type": "audio", "url": {"array": samples, "sampling_rate": 16000}}
    answers = ask(model, [message(image, QUESTIONS[0])], [message(sound, "What do you hear?")])
    assert answers[0].text == assistant.chat(clips["image"]).ask(QUESTIONS[0], max_new_tokens=6).text
    medium = assistant.read(media_source(sound["url"]))
    assert medium.kind == "audio"
    assert medium.sound.duration == pytest.approx(2.0)
    assert media_source({"path": "x.mp4", "bytes": None}) == "x.mp4"
    with pytest.raises(DataError, match="The task gives a medium as int"):
        media_source(3)


def test_stop_strings_cut_the_answer(model, clips):
    conversation = [message(video(clips["video"]), QUESTIONS[0])]
    [whole] = ask(model, conversation)
    stop = whole.text[3:6]
    [cut] = ask(model, conversation, settings={**SHORT, "until": [stop]})
    assert cut.text == whole.text[: whole.text.index(stop)]


def test_decoding():
    assert decoding_of({"temperature": 0, "top_p": 0.9, "max_new_tokens": 3}).is_sampling is False
    assert decoding_of({"temperature": 0.7, "do_sample": False}).is_sampling is False
    assert decoding_of({"temperature": 0.7, "top_p": 0.9}).top_p == 0.9
    assert decoding_of({"num_beams": 3}).num_beams == 3


def test_loglikelihood(model, assistant, clips):
    model.task_dict = {"task": {"test": [{"target": " no"}]}}
    choices = [" red", " a blue circle", lambda doc: doc["target"]]
    requests = [
        Instance(
            request_type="loglikelihood",
            arguments=(QUESTIONS[0], choice, lambda doc: [str(clips["video"])], 0, "task", "test"),
            idx=index,
            metadata={"task": "task", "doc_id": 0, "repeats": 1},
        )
        for index, choice in enumerate(choices)
    ]
    expected = assistant.score(clips["video"], QUESTIONS[0], ["red", "a blue circle", "no"])
    found = model.loglikelihood(requests)
    assert [value for value, _ in found] == pytest.approx([score.sum for score in expected], abs=1e-4)
    assert [is_greedy for _, is_greedy in found] == [score.is_greedy for score in expected]


def test_several_rounds(model, clips):
    """The task asks a second question about the first answer, and then ends."""

    def doc_to_messages(doc, round_idx=0, previous_output=(), previous_round_info=None):
        if round_idx == 0:
            return [message(video(clips["video"]), QUESTIONS[0])]
        return [message(f"Is it {previous_output[-1]}?")], round_idx == 2, list(previous_output), None

    model.task_dict = {"task": {"test": [{}]}}
    request = Instance(
        request_type="generate_until_multi_round",
        arguments=("", doc_to_messages, dict(SHORT), 0, "task", "test"),
        idx=0,
        metadata={"task": "task", "doc_id": 0, "repeats": 1},
    )
    [answers] = model.generate_until_multi_round([request])
    [first] = ask(model, [message(video(clips["video"]), QUESTIONS[0])])
    assert answers[0] == first.text
    assert len(answers) == 2


@pytest.mark.slow
def test_a_local_task_without_a_network(repository, tmp_path):
    """``python -m lmms_eval`` with the miniature gives the answers of ``video-llama evaluate``."""
    from functools import partial

    from video_llama.cli.evaluate import load_for_worker
    from video_llama.cli.options import ModelOptions
    from video_llama.evaluation.config import BenchmarkConfig
    from video_llama.evaluation.run import evaluate

    rows = [
        {"media": "square_with_hum.mp4", "question": "What colour is it?", "answer": "It is yellow."},
        {"media": "square_with_hum.mp4", "question": "What is the sound?", "answer": "no sound"},
        {"media": "silent_star.mp4", "question": "What shape is it?", "answer": "star", "start": 0.5, "end": 3.0},
    ]
    data = write_rows(tmp_path / "rows.jsonl", rows)
    variables = {
        "HF_HUB_OFFLINE": "1",
        "HF_DATASETS_OFFLINE": "1",
        "HF_HOME": str(tmp_path / "hf"),
        "VIDEO_LLAMA_QUESTION_ROWS": str(data),
        "VIDEO_LLAMA_QUESTION_ROWS_MEDIA": str(repository / "examples"),
    }
    command = [sys.executable, "-m", "lmms_eval", "--model", "video_llama", "--tasks", "question_rows"]
    command += ["--model_args", f"pretrained=miniature,device=cpu,record_file={tmp_path / 'records.jsonl'}"]
    command += ["--include_path", str(repository / "video_llama" / "evaluation" / "tasks"), "--batch_size", "2"]
    command += ["--output_path", str(tmp_path / "out"), "--log_samples"]
    run = subprocess.run(command, env={**os.environ, **variables}, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
    [results] = tmp_path.glob("out/*/*_results.json")
    figures = json.loads(results.read_text())["results"]["question_rows"]
    assert figures["contains,none"] == pytest.approx(2 / 3)
    config = BenchmarkConfig(data=data, media_dir=repository / "examples")
    load = partial(load_for_worker, ModelOptions(device="cpu"))
    evaluate(config, tmp_path / "ours", load)
    ours = read_jsonl(tmp_path / "ours" / "answers.jsonl")
    theirs = read_jsonl(tmp_path / "records.jsonl")
    assert [each["answer"] for each in theirs] == [each["answer"] for each in ours]
    assert [each["prompt_sha256"] for each in theirs] == [each["record"]["prompt_sha256"] for each in ours]
