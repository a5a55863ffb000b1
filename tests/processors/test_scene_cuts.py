"""Scene cuts: of videos with known cuts, and what is not a cut."""

from pathlib import Path

import av
import numpy as np
import pytest

from tests.factories.media import write_long_video
from video_llama.errors import MediaError
from video_llama.processors.medium import MediaOptions
from video_llama.processors.sampling import FrameSampling
from video_llama.processors.scene_cuts import NEIGHBOURS, ScenePlan, cut_positions
from video_llama.processors.settings import ProcessorSettings
from video_llama.processors.window_reader import WindowReader
from video_llama.processors.windows import Window

SETTINGS = ProcessorSettings(image_size=28, num_frames=2)


def windows(source, plan: ScenePlan, options: MediaOptions | None = None) -> list[tuple[float, float]]:
    options = options or MediaOptions(no_audio=True)
    with WindowReader(source, SETTINGS, options, max_frames=8, with_audio_branch=False) as reader:
        return [(window.start, window.end) for window in reader.plan(plan)]


def write_frames(path: Path, frames: list[np.ndarray], container: dict[str, str] | None = None) -> Path:
    with av.open(str(path), "w", options=container or {}) as file:
        stream = file.add_stream("libx264", rate=10)
        stream.height, stream.width, stream.pix_fmt = 48, 64, "yuv420p"
        for index, image in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
            frame.pts = index
            file.mux(stream.encode(frame))
        file.mux(stream.encode(None))
    return path


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv"])
def test_known_cuts(tmp_path, name):
    path = write_long_video(tmp_path / name, 30, sound=None)
    assert windows(path, ScenePlan()) == [(0, 10), (10, 20), (20, 30)]
    segment = MediaOptions(FrameSampling(2, start=5, end=20.5), no_audio=True)
    assert windows(path, ScenePlan(), segment) == [(5, 10), (10, 20.5)]  # a scene of half a second is not one
    assert windows(path, ScenePlan(max_seconds=6)) == [(0, 6), (6, 10), (10, 16), (16, 20), (20, 26), (26, 30)]


def test_slow_changes_are_no_cuts(tmp_path):
    """A fade from black to white, and a square that moves."""
    fade = [np.full((48, 64, 3), 5 * k, np.uint8) for k in range(50)]
    assert windows(write_frames(tmp_path / "fade.mp4", fade), ScenePlan()) == [(0, 5)]
    moving = []
    for k in range(50):
        image = np.zeros((48, 64, 3), np.uint8)
        image[10:40, k : k + 12] = 255
        moving.append(image)
    assert windows(write_frames(tmp_path / "moving.mp4", moving), ScenePlan()) == [(0, 5)]


def test_threshold_and_shortest_scene(tmp_path):
    frames = [np.full((48, 64, 3), level, np.uint8) for level in (100, 115, 200) for _ in range(20)]
    path = write_frames(tmp_path / "a.mp4", frames)
    assert windows(path, ScenePlan()) == [(0, 4), (4, 6)]
    assert windows(path, ScenePlan(threshold=4)) == [(0, 2), (2, 4), (4, 6)]
    assert windows(path, ScenePlan(threshold=4, min_seconds=3)) == [(0, 6)]


def test_differences_around_a_cut():
    still = np.full(3 * NEIGHBOURS, 1.0)
    still[20] = 9.0
    assert cut_positions(still, 8.0) == [20]
    assert cut_positions(9.0 * still, 8.0) == [20]  # shaking: every difference is above the threshold
    assert cut_positions(still, 9.5) == []
    assert cut_positions(np.array([50.0]), 8.0) == [0]


def test_scenes_follow_each_other():
    found = ScenePlan(min_seconds=1).windows([0.4, 2.0, 2.5, 6.0, 9.8], 0.0, 10.0)
    assert found == [Window(0, 2), Window(2, 6), Window(6, 10)]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"threshold": 0}, "threshold is 0. Give a difference in percent"),
        ({"threshold": 101}, "threshold is 101"),
        ({"min_seconds": -1}, "min_seconds is -1"),
        ({"max_seconds": 0}, "window is 0. Give a positive number of seconds"),
    ],
)
def test_invalid_values(fields, message):
    with pytest.raises(ValueError, match=message):
        ScenePlan(**fields)


def test_other_media(clips):
    with pytest.raises(MediaError, match="is not a video file, which scenes require"):
        windows(clips["frames"], ScenePlan())
