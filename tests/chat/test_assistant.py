"""A loaded model: batches, templates, models without an audio branch."""

from __future__ import annotations

import pytest

import video_llama
from tests.factories.models import make_folder

MIXED = (
    ("video", "What do you see?"),
    (None, "Say something about the colour of the square, and of the circle."),
    ("sound", "Hear?"),
    ("image", "Describe the shape, please, in a few words."),
    ("frames", "Where does it move?"),
    ("silent", "What do you hear?"),
)


def requests(clips):
    return [(None if name is None else clips[name], question) for name, question in MIXED]


@pytest.mark.parametrize("batch_size", [1, 4, 6])
@pytest.mark.parametrize("decoding", [{}, {"repetition_penalty": 1.4}, {"num_beams": 2}])
def test_batch_equals_one_by_one(assistant, clips, batch_size, decoding):
    asked = requests(clips)
    together = assistant.ask_batch(asked, batch_size=batch_size, max_new_tokens=24, **decoding)
    for (media, question), answer in zip(asked, together, strict=True):
        chat = assistant.chat() if media is None else assistant.chat(media)
        alone = chat.ask(question, max_new_tokens=24, **decoding)
        assert answer.text == alone.text
        assert answer.record.tokens == alone.record.tokens
        assert answer.record.prompt == alone.record.prompt
        assert answer.record.stop_reason == alone.record.stop_reason


QUESTIONS = ("What do you see?", "Why?", "Where does the square move, and what do you hear?", "Which colour is it?")


def test_a_file_is_encoded_once_for_neighbouring_questions(assistant, clips):
    calls = []
    hook = assistant.engine.model.model.video_qformer.register_forward_hook(lambda *_: calls.append(1))
    try:
        assistant.ask_batch([(clips["video"], question) for question in QUESTIONS], batch_size=2, max_new_tokens=2)
        assert len(calls) == 1
        assistant.ask_batch([(clips[name], QUESTIONS[0]) for name in ("video", "image")], max_new_tokens=2)
        assert len(calls) == 3
    finally:
        hook.remove()


def test_batch_of_nothing(assistant):
    assert assistant.ask_batch([]) == []


def test_llama_2_template(tmp_path, clips):
    assistant = video_llama.load(make_folder(tmp_path / "tiny", prompt_template="llama2"), device="cpu")
    chat = assistant.chat(clips["image"])
    chat.ask("What do you see?", max_new_tokens=4)
    prompt = chat.ask("What else?", max_new_tokens=4).record.prompt
    assert prompt.startswith("[INST] <<SYS>>\n")
    assert prompt.endswith(" </s><s>[INST] What else? [/INST]")


def test_model_without_audio_branch(tmp_path, clips):
    assistant = video_llama.load(make_folder(tmp_path / "deaf", with_audio_branch=False), device="cpu")
    record = assistant.chat(clips["video"]).ask("What do you see?", max_new_tokens=4).record
    assert record.modalities["audio"] == "the model has no audio branch"
    for name, options in (("sound", {}), ("video", {"require_audio": True})):
        with pytest.raises(video_llama.VideoLlamaError, match=r"the model has no audio branch\. Use a model with one"):
            assistant.chat(clips[name], **options)
