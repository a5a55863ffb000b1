"""Encoding media and refusing untrained weights."""

from __future__ import annotations

from dataclasses import replace

import pytest

import video_llama
from tests.factories.models import make_folder
from video_llama.errors import CheckpointError


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


def test_untrained_folder_refuses(tmp_path):
    path = make_folder(tmp_path / "tiny", untrained_parts=("model.video_qformer.",))
    with pytest.raises(CheckpointError, match=r"untrained parts \(model\.video_qformer\.\).*Train them"):
        video_llama.load(path)
