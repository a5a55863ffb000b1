"""The exceptions for user errors."""

import pytest

from video_llama import errors


@pytest.mark.parametrize("name", [name for name in dir(errors) if name.endswith("Error")])
def test_every_error_can_be_caught_as_one(name: str) -> None:
    assert issubclass(getattr(errors, name), errors.VideoLlamaError)


def test_no_audio_track_is_a_media_error() -> None:
    assert issubclass(errors.NoAudioTrackError, errors.MediaError)


def test_a_missing_extra_names_the_command_that_installs_it() -> None:
    message = str(errors.MissingExtraError("peft", "train"))
    assert message == "peft is not installed. Install it with: pip install 'video-llama[train]'"
