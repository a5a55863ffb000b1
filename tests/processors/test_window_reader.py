"""Windows of a medium equal its segments read one by one, in every way that files are read; and they are sought."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.factories.media import Clip, write_clip, write_long_video
from video_llama.errors import MediaError, NoAudioTrackError
from video_llama.processors import video_decode, window_reader
from video_llama.processors.media_file import MediaFile
from video_llama.processors.medium import MediaOptions, ReadMedium, read_medium
from video_llama.processors.sampling import FrameSampling
from video_llama.processors.settings import ProcessorSettings
from video_llama.processors.window_reader import WindowReader
from video_llama.processors.windows import Window, WindowPlan

SETTINGS = ProcessorSettings(image_size=28, num_frames=4, num_clips=3)
SECONDS = 70
PLAN = WindowPlan(20, 8)
NEEDS = {"max_frames": 32, "with_audio_branch": True}

FILES = {
    "sought.mp4": ("libx264", "aac"),
    "opus.mkv": ("libx264", "libopus"),  # the sound is decoded in order
    "flac.mkv": ("mpeg4", "flac"),
    "silent.mp4": ("libx264", None),
}


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("long")
    return {
        name: write_long_video(folder / name, SECONDS, codec=codec, sound=sound)
        for name, (codec, sound) in FILES.items()
    }


def read_all(source, options: MediaOptions, plan: WindowPlan = PLAN) -> tuple[list[Window], list[ReadMedium]]:
    with WindowReader(source, SETTINGS, options, **NEEDS) as reader:
        windows = plan.windows(*reader.bounds)
        return windows, list(reader.read(windows))


def assert_equal_to_segments(source, options: MediaOptions, windows: list[Window], media: list[ReadMedium]) -> None:
    sampling = options.frames or FrameSampling(SETTINGS.num_frames)
    for window, medium in zip(windows, media, strict=True):
        fields = {name: getattr(sampling, name) for name in ("num_frames", "fps", "rule", "seed")}
        segment = FrameSampling(**fields, start=window.start, end=window.end)
        expected = read_medium(
            source, SETTINGS, MediaOptions(segment, options.no_audio, options.require_audio), **NEEDS
        )
        found, wanted = medium.as_dict(), expected.as_dict()
        if found["sound"] is not None:
            found["sound"].pop("decoded"), wanted["sound"].pop("decoded")
            assert np.array_equal(medium.sound.samples, expected.sound.samples)
        assert found == wanted
        if expected.frames is not None:
            assert np.array_equal(medium.frames.frames, expected.frames.frames)


@pytest.mark.parametrize("name", FILES)
def test_windows_equal_segments(files, name):
    windows, media = read_all(files[name], MediaOptions())
    assert len(windows) == 7
    assert windows[-1].end == pytest.approx(SECONDS, abs=0.2)
    assert_equal_to_segments(files[name], MediaOptions(), windows, media)


@pytest.mark.parametrize("name", ["sought.mp4", "flac.mkv"])
def test_sound_of_a_track_that_is_not_in_memory(files, name, monkeypatch):
    monkeypatch.setattr("video_llama.processors.audio_decode.HELD_BYTES", 1000)
    windows, media = read_all(files[name], MediaOptions())
    assert_equal_to_segments(files[name], MediaOptions(), windows, media)


def test_seeking_that_fails_falls_back_to_reading_in_order(files, monkeypatch):
    """A video of hidden frames, without timestamps or with damaged seek tables is decoded twice, not once a window."""
    opened = []

    def not_sought(*arguments):
        return {}

    def counted(*arguments):
        opened.append(arguments)
        return video_decode.frames_in_order(*arguments)

    monkeypatch.setattr(window_reader, "decode_by_seeking", not_sought)
    monkeypatch.setattr(window_reader, "frames_in_order", counted)
    options = MediaOptions(FrameSampling(5, rule="headtail", seed=1))
    windows, media = read_all(files["sought.mp4"], options)
    assert len(opened) == 1
    assert_equal_to_segments(files["sought.mp4"], options, windows, media)


def test_frames_are_decoded_by_seeking_in_one_container(files, monkeypatch):
    """Of a window at the end, few frames before it are decoded; every window uses the same containers."""
    decoded = []
    scale = video_decode.Scaler.__call__

    def counted(self, frame):
        decoded.append(frame.pts)
        return scale(self, frame)

    monkeypatch.setattr(video_decode.Scaler, "__call__", counted)
    with MediaFile(files["sought.mp4"]) as media:
        with WindowReader(media, SETTINGS, MediaOptions(no_audio=True), **NEEDS) as reader:
            list(reader.read(WindowPlan(1, 10).windows(*reader.bounds)))
        assert media.num_containers == 1
    assert len(decoded) == 4 * 7  # of the wanted frames only
    with MediaFile(files["sought.mp4"]) as media:
        with WindowReader(media, SETTINGS, MediaOptions(), **NEEDS) as reader:
            windows = WindowPlan(5).windows(*reader.bounds)
            list(reader.read(windows))
        assert media.num_containers < len(windows)


def test_a_missing_track_is_searched_once(files):
    with MediaFile(files["silent.mp4"]) as media:
        with WindowReader(media, SETTINGS, MediaOptions(), **NEEDS) as reader:
            found = list(reader.read(WindowPlan(10).windows(*reader.bounds)))
        assert media.num_containers < len(found)
    assert {medium.why_no_sound for medium in found} == {"no audio track"}


@pytest.mark.parametrize("name", ["a.gif", "a.webp"])
def test_animations(tmp_path, name):
    images = [Image.new("RGB", (40, 30), (20 * number, 0, 0)) for number in range(12)]
    path = tmp_path / name
    images[0].save(path, save_all=True, append_images=images[1:], duration=250)
    windows, media = read_all(path, MediaOptions(), WindowPlan(1))
    assert [(window.start, window.end) for window in windows] == [(0, 1), (1, 2), (2, 3)]
    assert_equal_to_segments(path, MediaOptions(), windows, media)


def test_vp8_with_hidden_frames(tmp_path):
    path = write_clip(
        tmp_path / "a.webm", Clip("webm", "libvpx", 60, options={"auto-alt-ref": "1", "lag-in-frames": "16"})
    )
    windows, media = read_all(path, MediaOptions(), WindowPlan(1, 0.5))
    assert_equal_to_segments(path, MediaOptions(), windows, media)


def test_truncated_file_names_the_part_that_can_be_read(files, tmp_path):
    path = tmp_path / "cut.mkv"
    data = files["flac.mkv"].read_bytes()
    path.write_bytes(data[: len(data) // 2])
    windows, media = read_all(path, MediaOptions(no_audio=True))
    assert windows[-1].end < SECONDS  # the length is that of the packets, not of the header
    assert_equal_to_segments(path, MediaOptions(no_audio=True), windows, media)


def test_sound_file(tmp_path):
    from tests.processors.test_sound_index import write

    path = write(tmp_path / "a.wav", "pcm_s16le")
    windows, media = read_all(path, MediaOptions())
    assert media[0].kind == "audio"
    assert media[0].frames is None
    assert_equal_to_segments(path, MediaOptions(), windows, media)


def test_folder_of_frames(clips):
    windows, media = read_all(clips["frames"], MediaOptions(), WindowPlan(2))
    assert [(window.start, window.end) for window in windows] == [(0, 2), (2, 4), (4, 5)]
    assert [medium.frames.indices for medium in media] == [[0, 1], [2, 3], [4]]
    assert media[0].why_no_sound == "no audio track"


def test_segment_bounds_and_fps(files):
    options = MediaOptions(FrameSampling(fps=0.5, start=12, end=52), no_audio=True)
    windows, media = read_all(files["sought.mp4"], options)
    assert (windows[0].start, windows[-1].end) == (12, 52)
    assert media[0].frames.seconds == [12, 14, 16, 18, 20, 22, 24, 26, 28, 30]


def test_errors(files, clips):
    with pytest.raises(MediaError, match=r"picture\.png is an image, and windows divide a video or a sound"):
        read_all(clips["image"], MediaOptions())
    with pytest.raises(MediaError, match=r"start is 80 s, but it lasts 70\.00 s"):
        read_all(files["sought.mp4"], MediaOptions(FrameSampling(start=80)))
    with pytest.raises(ValueError, match="times cannot be combined with windows"):
        read_all(files["sought.mp4"], MediaOptions(FrameSampling(times=(1.0,))))
    with pytest.raises(NoAudioTrackError):
        read_all(files["silent.mp4"], MediaOptions(require_audio=True))
    with pytest.raises(MediaError, match="is a sound file, but no_audio"):
        read_all(clips["sound"], MediaOptions(no_audio=True))
    with pytest.raises(ValueError, match="max_frame_pos"):
        read_all(files["sought.mp4"], MediaOptions(FrameSampling(33)))
