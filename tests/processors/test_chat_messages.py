"""Blocks of messages."""

import base64
import json

import pytest
import torch

from tests.processors.prompts import READY, medium, user
from video_llama.errors import PromptError


def test_an_unknown_block(processor):
    with pytest.raises(PromptError, match="A block of a message has type 'smell'"):
        processor.apply_chat_template([user({"type": "smell"})], **READY)


def test_content_of_other_clients(processor, clips):
    """OpenAI's blocks, texts without blocks, and contents that are missing."""
    picture = {"type": "image_url", "image_url": {"url": clips["image"].as_uri()}}
    sound = {"type": "input_audio", "input_audio": {"data": base64.b64encode(clips["sound"].read_bytes()).decode()}}
    theirs = [{"role": "system", "content": None}, {"role": "user", "content": [picture, sound, "What?"]}]
    ours = [
        {"role": "system", "content": ""},
        user(medium("image", clips["image"]), medium("sound", clips["sound"]), "What?"),
    ]
    first, second = (processor.apply_chat_template(messages, **READY) for messages in (theirs, ours))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_messages_are_not_changed(processor, clips):
    messages = [user(medium("video", clips["video"]), "What?", "</s>")]
    before = json.dumps(messages)
    processor.apply_chat_template(messages, **READY)
    assert json.dumps(messages) == before
