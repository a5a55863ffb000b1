"""A conversation about a video."""

import pytest


@pytest.fixture
def chat(assistant, clips):
    return assistant.chat(clips["video"])
