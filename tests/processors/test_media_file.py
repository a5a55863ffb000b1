"""Media files: sources of every kind, names, files that are not media."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from video_llama.errors import MediaError
from video_llama.processors.video_processor import read_image, read_video


def test_bytes_and_file_objects_give_the_same_as_a_path(plain_clip: Path) -> None:
    of_path = read_video(plain_clip)
    with plain_clip.open("rb") as file:
        assert np.array_equal(read_video(file).frames, of_path.frames)
    assert np.array_equal(read_video(plain_clip.read_bytes()).frames, of_path.frames)


@pytest.mark.parametrize(
    "name", ["mit Leerzeichen.mp4", "видео 影片 🎬.mp4", "a:b?c#d%20e.mp4", "-dash.mp4", "no_suffix"]
)
def test_names_of_any_kind(tmp_path: Path, plain_clip: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(plain_clip.read_bytes())
    video = read_video(path)
    assert video.source == str(path)
    assert np.array_equal(video.frames, read_video(plain_clip).frames)


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(MediaError, match=r"none\.mp4 does not exist or cannot be read\. Check the path"):
        read_video(tmp_path / "none.mp4")
    with pytest.raises(MediaError, match="does not exist"):
        read_video("nul\0byte.mp4")


def test_an_empty_file(tmp_path: Path) -> None:
    path = tmp_path / "empty.mp4"
    path.touch()
    with pytest.raises(MediaError, match=r"empty\.mp4 is empty \(0 bytes\)\. Copy or download it again"):
        read_video(path)
    with pytest.raises(MediaError, match="empty"):
        read_video(b"")


def test_a_text_named_mp4(tmp_path: Path) -> None:
    path = tmp_path / "text.mp4"
    path.write_text("This is not a video.\n" * 100)
    with pytest.raises(MediaError, match=r"text\.mp4 cannot be read as video or sound.*convert it: ffmpeg"):
        read_video(path)
    with pytest.raises(MediaError, match=r"text\.mp4 cannot be read as an image"):
        read_image(path)


def test_a_playlist_reads_no_other_file(tmp_path: Path, plain_clip: Path) -> None:
    path = tmp_path / "list.m3u8"
    path.write_text("#EXTM3U\n#EXT-X-TARGETDURATION:5\n#EXTINF:5,\nhttp://127.0.0.1:9/a.ts\n#EXT-X-ENDLIST\n")
    with pytest.raises(MediaError, match=r"list\.m3u8"):
        read_video(path)
