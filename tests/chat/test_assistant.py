"""Batches equal one by one; what loads, what refuses, and the names that it refuses."""

from dataclasses import replace

import pytest

import video_llama
from tests.factories.models import make_folder
from video_llama.errors import CheckpointError

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


def test_batch_of_nothing(assistant):
    assert assistant.ask_batch([]) == []


def test_what_was_read_can_be_changed_before_it_is_encoded(assistant, clips):
    seen, heard = assistant.read(clips["silent"]), assistant.read(clips["video"])
    mixed = replace(seen, sound=heard.sound, why_no_sound=None)
    record = assistant.chat(assistant.encode(mixed)).ask("What do you hear?", max_new_tokens=4).record
    assert record.media[0]["source"] == str(clips["silent"])
    assert record.media[0]["sound"]["duration"] == heard.sound.duration
    assert record.modalities["audio"] == "used"


def test_encoded_medium_serves_many_questions(assistant, clips):
    medium = assistant.encode(clips["video"])
    answers = assistant.ask_batch([(medium, "What do you see?"), (medium, "What do you hear?")], max_new_tokens=8)
    for answer in answers:
        assert answer.text == assistant.chat(clips["video"]).ask(answer.record.question, max_new_tokens=8).text
    assert assistant.chat(medium).ask("What do you see?", max_new_tokens=8).text == answers[0].text


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


def test_untrained_folder_refuses(tmp_path):
    path = make_folder(tmp_path / "tiny", untrained_parts=("model.video_qformer.",))
    with pytest.raises(CheckpointError, match=r"untrained parts \(model\.video_qformer\.\).*Train them"):
        video_llama.load(path)


def test_weights_that_are_no_numbers_refuse(tmp_path):
    path = make_folder(tmp_path / "tiny")
    assistant = video_llama.load(path, device="cpu")
    assistant._engine.model.lm_head.weight.data[0] = float("nan")
    with pytest.raises(CheckpointError, match=r"computed NaN or infinity in torch.float32"):
        assistant.chat().ask("What?")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dtype": "float8"}, "dtype is 'float8'. Choose float32, bfloat16, float16"),
        ({"device": "abacus"}, "device 'abacus' is not available"),
    ],
)
def test_bad_place(model_path, options, message):
    with pytest.raises(ValueError, match=message):
        video_llama.load(model_path, **options)


def test_dtype_by_name(model_path, clips):
    import torch

    assistant = video_llama.load(model_path, device="cpu", dtype="bfloat16")
    dtypes = {name: parameter.dtype for name, parameter in assistant._engine.model.named_parameters()}
    assert {dtype for name, dtype in dtypes.items() if "language_model" in name} == {torch.bfloat16}
    # The Q-Formers compute in float32 beside a decoder in half precision, as the reference's do.
    assert {dtype for name, dtype in dtypes.items() if ".qformer." in name} == {torch.float32}
    assert assistant.chat(clips["video"]).ask("What do you see?", max_new_tokens=4).record.tokens["generated"] > 0
