"""What a file is, found by its content, and what is read of it."""

import numpy as np
import pytest

from tests.factories.media import write_video
from tests.factories.models import SETTINGS
from video_llama.chat.messages import message_for
from video_llama.errors import MediaError
from video_llama.processors.media_file import MediaFile
from video_llama.processors.medium import MediaOptions, media_kind, read_medium
from video_llama.processors.sampling import FrameSampling

LIMITS = {"max_frames": 8, "with_audio_branch": True}


@pytest.mark.parametrize(
    ("name", "kind"),
    [("video", "video"), ("silent", "video"), ("sound", "audio"), ("image", "image"), ("frames", "frames")],
)
def test_kind(clips, name, kind):
    assert media_kind(clips[name]) == kind


def test_kind_is_not_in_the_name(clips, tmp_path):
    (tmp_path / "picture.mp4").write_bytes(clips["image"].read_bytes())
    (tmp_path / "film.png").write_bytes(clips["video"].read_bytes())
    assert media_kind(tmp_path / "picture.mp4") == "image"
    assert media_kind(tmp_path / "film.png") == "video"


def test_kind_of_bytes_and_open_files(clips):
    assert media_kind(clips["sound"].read_bytes()) == "audio"
    with clips["video"].open("rb") as file:
        assert media_kind(file) == "video"


def test_subtitles_alone(tmp_path):
    (tmp_path / "words.srt").write_text("1\n00:00:00,000 --> 00:00:01,000\nhello\n")
    with pytest.raises(MediaError, match=r"is not a video, image or sound in a supported format. Convert it"):
        media_kind(tmp_path / "words.srt")


def test_only_what_can_be_seen_is_asked_about_without_sound(clips):
    late = MediaOptions(frames=FrameSampling(num_frames=1, start=1000.0))
    with pytest.raises(MediaError, match=r"Choose a start before its end\.$"):
        read_medium(clips["sound"], SETTINGS, late, **LIMITS)


def test_shapes(clips):
    medium = read_medium(clips["video"], SETTINGS, MediaOptions(), **LIMITS)
    assert medium.frames.frames.shape == (4, 3, 28, 28)
    assert medium.sound.samples.shape == (3, 32000)
    assert [slot.kind for slot in message_for(medium).slots] == ["audio", "video"]


def test_bytes_are_seen_and_heard(clips):
    medium = read_medium(clips["video"].read_bytes(), SETTINGS, MediaOptions(), **LIMITS)
    named = read_medium(clips["video"], SETTINGS, MediaOptions(), **LIMITS)
    assert np.array_equal(medium.frames.frames, named.frames.frames)
    assert np.array_equal(medium.sound.samples, named.sound.samples)


def test_fewer_frames_than_asked_for(tmp_path):
    path = write_video(tmp_path / "two.mp4", np.random.default_rng(0), num_frames=2)
    assert read_medium(path, SETTINGS, MediaOptions(), **LIMITS).frames.indices == [0, 1]


def test_a_video_with_sound_is_opened_once(clips):
    """One file, and one container for each of picture and sound; the kind is determined on the first of them."""
    with MediaFile(clips["video"]) as media:
        medium = read_medium(media, SETTINGS, MediaOptions(), **LIMITS)
        assert medium.frames is not None
        assert medium.sound is not None
        assert (media.num_opened, media.num_containers) == (1, 2)


@pytest.mark.parametrize(("name", "containers"), [("silent", 2), ("sound", 1), ("image", 0)])
def test_other_files_are_opened_once(clips, name, containers):
    with MediaFile(clips[name]) as media:
        read_medium(media, SETTINGS, MediaOptions(), **LIMITS)
        assert (media.num_opened, media.num_containers) == (1, containers)
