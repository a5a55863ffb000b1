"""Files that are not what they seem: each gives what is there, or one line that says what to do."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from tests.factories.clips import Clip, add_stream, decode_all, lengthen_header, tone, write_clip, write_sound
from video_llama.errors import MediaError
from video_llama.processors.sampling import FrameSampling
from video_llama.processors.video_processor import read_image, read_video


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
    path.write_text("This is no video.\n" * 100)
    with pytest.raises(MediaError, match=r"text\.mp4 cannot be read as video or sound.*convert it: ffmpeg"):
        read_video(path)
    with pytest.raises(MediaError, match=r"text\.mp4 cannot be read as an image"):
        read_image(path)


def test_a_folder_without_pictures(tmp_path: Path) -> None:
    with pytest.raises(MediaError, match=r"contains no images\. Give a video file, or a folder of frames"):
        read_video(tmp_path)
    with pytest.raises(MediaError, match=r"is a folder, not a media file\. Give a file"):
        read_image(tmp_path)


def test_a_playlist_reads_no_other_file(tmp_path: Path, plain_clip: Path) -> None:
    path = tmp_path / "list.m3u8"
    path.write_text("#EXTM3U\n#EXT-X-TARGETDURATION:5\n#EXTINF:5,\nhttp://127.0.0.1:9/a.ts\n#EXT-X-ENDLIST\n")
    with pytest.raises(MediaError, match=r"list\.m3u8"):
        read_video(path)


def test_sound_without_a_picture(tmp_path: Path) -> None:
    path = write_sound(tmp_path / "a.wav", (tone(0.5, 16000) * 32767).astype(np.int16), 16000, "pcm_s16le", "s16")
    with pytest.raises(MediaError, match=r"a\.wav has no video stream\. It has only sound: give it as audio"):
        read_video(path)


def test_a_video_without_a_frame(tmp_path: Path) -> None:
    path = tmp_path / "none.mkv"
    with av.open(str(path), "w") as container:
        stream = add_stream(container, Clip())
        container.start_encoding()
        for packet in stream.encode(None):
            container.mux(packet)
    with pytest.raises(MediaError, match=r"none\.mkv has a video stream and no frame in it|none\.mkv cannot be read"):
        read_video(path)


@pytest.mark.parametrize("place", ["end", "front"])
def test_a_truncated_mp4(tmp_path: Path, make_clip: Any, place: str) -> None:
    """With its table at the end a cut file cannot be opened; at the front, what is there can be had."""
    options = {"movflags": "faststart"} if place == "front" else {}
    source = make_clip(f"table_at_{place}", Clip(options={"g": "12"}, container=options))
    path = tmp_path / "cut.mp4"
    path.write_bytes(source.read_bytes()[: source.stat().st_size // 2])
    if place == "end":
        with pytest.raises(MediaError, match=r"cut\.mp4 cannot be read.*truncated"):
            read_video(path)
        return
    with pytest.raises(MediaError, match=r"is truncated or damaged: it lists 60 frames \(2\.4 s\).*end=") as caught:
        read_video(path)
    end = float(str(caught.value).split("(end=")[1].split(")")[0])
    part = read_video(path, sampling=FrameSampling(8, end=end))
    whole, _ = decode_all(source, (224, 224))
    assert 4 <= len(part.indices) <= 8
    assert np.array_equal(part.frames, np.stack([whole[i] for i in part.indices]))


@pytest.mark.parametrize("suffix", ["mkv", "ts", "flv", "avi"])
def test_a_truncated_stream_gives_what_is_there(tmp_path: Path, make_clip: Any, suffix: str) -> None:
    codec = "mpeg4" if suffix == "avi" else "libx264"
    source = make_clip("whole", Clip(suffix, codec, options={"g": "12"}))
    path = tmp_path / f"cut.{suffix}"
    path.write_bytes(source.read_bytes()[: source.stat().st_size * 6 // 10])
    whole, _ = decode_all(source, (224, 224))
    video = read_video(path)
    assert 10 < video.total_frames < 60
    assert np.array_equal(video.frames[:-1], np.stack([whole[i] for i in video.indices[:-1]]))


def test_damage_in_the_middle_is_not_passed_over(tmp_path: Path, make_clip: Any) -> None:
    source = make_clip("one_group", Clip(options={"g": "250", "bf": "0"}, container={"movflags": "faststart"}))
    data = bytearray(source.read_bytes())
    data[len(data) // 2 :] = bytes(len(data) - len(data) // 2)
    path = tmp_path / "zeros.mp4"
    path.write_bytes(data)
    with pytest.raises(MediaError, match="is truncated or damaged"):
        read_video(path)


@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
def test_ten_hours_in_the_header_and_three_seconds_in_the_file(
    tmp_path: Path, make_clip: Any, caplog: pytest.LogCaptureFixture, suffix: str
) -> None:
    source = make_clip("three_seconds", Clip(suffix, num_frames=75))
    path = lengthen_header(source, tmp_path / f"long.{suffix}", 36_000)
    assert path.read_bytes() != source.read_bytes()
    with caplog.at_level(logging.WARNING, logger="video_llama"):
        video = read_video(path)
    if suffix == "mkv":  # of an mp4 FFmpeg itself believes the table
        assert "the header gives 36000.0 s, but the file has 3.0 s of video" in caplog.text
    assert (video.total_frames, video.duration) == (75, pytest.approx(3.0))
    assert np.array_equal(video.frames, read_video(source).frames)
    with pytest.raises(MediaError, match=r"start is 60 s and the video lasts 3\.00 s"):
        read_video(path, sampling=FrameSampling(start=60.0))


def test_arguments_that_cannot_be(plain_clip: Path) -> None:
    with pytest.raises(ValueError, match=r"33 frames are asked for, the limit is 32 \(max_frame_pos\)"):
        read_video(plain_clip, sampling=FrameSampling(33))
    with pytest.raises(ValueError, match=r"40 frames are asked for, the limit is 32"):
        read_video(plain_clip, sampling=FrameSampling(40, start=0.1))
    with pytest.raises(ValueError, match=r"size is \(0, 224\)"):
        read_video(plain_clip, size=(0, 224))
    with pytest.raises(ValueError, match="A source is a path, bytes or a binary file object, not int"):
        read_video(7)  # type: ignore[arg-type]


def test_a_video_may_change_its_size(tmp_path: Path) -> None:
    """Two recordings in one transport stream: each frame is scaled from its own size."""
    parts = [write_clip(tmp_path / f"{k}.ts", Clip("ts", size=(96 // k, 128 // k), num_frames=20)) for k in (1, 2)]
    path = tmp_path / "both.ts"
    path.write_bytes(b"".join(part.read_bytes() for part in parts))
    frames, _ = decode_all(path, (224, 224))
    assert len(frames) == 40
    video = read_video(path)
    assert np.array_equal(video.frames, np.stack([frames[i] for i in video.indices]))
