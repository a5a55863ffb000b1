"""Answers to a batch of rows equal those of chats; media that cannot be read are errors of their rows."""

import json

import pytest

from video_llama.datasets.question_rows import question_rows
from video_llama.evaluation.answering import RowAnswerer
from video_llama.processors.sampling import FrameSampling


@pytest.fixture
def results(assistant, config, data):
    return {each["id"]: each for each in RowAnswerer(assistant, config)(list(question_rows(data)))}


def test_answers_equal_those_of_a_chat(assistant, results, clips):
    part = FrameSampling(assistant.settings.num_frames, start=1.0, end=2.0)
    for name, media, frames in (("v0", ["video"], None), ("vs", ["video", "sound"], None), ("part", ["video"], part)):
        chat = assistant.chat(*[clips[each] for each in media], frames=frames)
        answer = chat.ask(results[name]["question"], max_new_tokens=6)
        found = results[name]
        assert found["answer"] == answer.text
        assert found["record"]["prompt_sha256"] == answer.record.prompt_sha256
        assert found["record"]["media"] == answer.record.media
        assert found["record"]["decoding"] == answer.record.decoding
    seconds = results["part"]["record"]["media"][0]["frames"]["seconds"]
    assert 1.0 <= seconds[0] < seconds[-1] < 2.0


def test_choices_are_scored_and_asked_by_letter(assistant, results, clips):
    found = results["v2"]
    assert "(A) red\n(B) blue" in found["question"]
    scores = assistant.score(clips["video"], "What colour is it?", ["red", "blue"])
    assert [score["choice"] for score in found["scores"]] == ["red", "blue"]
    assert [score["mean"] for score in found["scores"]] == pytest.approx([score.mean for score in scores], abs=1e-3)
    assert found["answer"] is not None


def test_likelihood_alone_generates_nothing(assistant, config, data):
    config = config.model_copy(update={"choice_methods": ("likelihood",)})
    [row] = [row for row in question_rows(data) if row.choices]
    [found] = RowAnswerer(assistant, config)([row])
    assert found["answer"] is None
    assert found["record"]["tokens"]["generated"] == 0
    assert len(found["scores"]) == 2


def test_results_are_plain_data(results):
    assert json.loads(json.dumps(list(results.values()))) == list(results.values())
    assert results["i1"]["question"] == "Describe the video."
    assert results["i1"]["expected"] == {"captions": ["a red circle", "there is a circle"], "category": None}


def test_errors_belong_to_their_row(assistant, config, data, clips):
    rows = list(question_rows(data))[:2]
    broken = rows[0].__class__("x", (str(clips["video"].parent / "absent.mp4"),), "What?", ("no",))
    long = rows[0].__class__("y", rows[0].media, "What? " * 500, ("no",))
    first, bad, too_long, second = RowAnswerer(assistant, config)([rows[0], broken, long, rows[1]])
    assert bad["answer"] is None
    assert bad["error"].startswith("MediaError: ")
    assert "absent.mp4" in bad["error"]
    assert too_long["error"].startswith("ContextLengthError: ")
    assert [each["answer"] for each in (first, second)] == [
        each["answer"] for each in RowAnswerer(assistant, config)(rows)
    ]
