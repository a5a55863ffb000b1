"""The message that presents a medium in a prompt."""

import pytest

from video_llama.chat.messages import message_for


@pytest.mark.parametrize(
    ("name", "slots"),
    [
        ("video", ["audio", "video"]),
        ("silent", ["video"]),
        ("sound", ["audio"]),
        ("image", ["video"]),
        ("frames", ["video"]),
    ],
)
def test_slots(assistant, clips, name, slots):
    assert [slot.kind for slot in message_for(assistant.read(clips[name])).slots] == slots
