"""The frames that a file lists, in every kind of container."""

from __future__ import annotations

import io
import logging
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from tests.factories.media import (
    Clip,
    add_stream,
    decode_all,
    encoded,
    lengthen_header,
    remux,
    tone,
    write_sound,
)
from tests.processors.video_formats import SAMPLINGS, SIZE, check
from video_llama.errors import MediaError
from video_llama.processors.sampling import FrameSampling
from video_llama.processors.video_processor import read_video


@pytest.mark.parametrize("suffix", ["mkv", "flv", "ts"])
def test_a_stream_without_durations(tmp_path: Path, suffix: str) -> None:
    """Written to a pipe, a file has no duration, no table and no cues."""

    class Pipe(io.RawIOBase):
        def __init__(self) -> None:
            self.data = bytearray()

        def writable(self) -> bool:
            return True

        def write(self, data: Any) -> int:
            self.data += bytes(data)
            return len(data)

    pipe, made = Pipe(), Clip(suffix, options={"g": "12", "bf": "2"})
    with av.open(pipe, "w", format={"mkv": "matroska", "ts": "mpegts"}.get(suffix, suffix)) as container:
        stream = add_stream(container, made)
        for packet in encoded(stream, made):
            container.mux(packet)
    path = tmp_path / f"piped.{suffix}"
    path.write_bytes(pipe.data)
    for sampling in SAMPLINGS.values():
        check(path, decode_all(path, SIZE)[0], sampling)


@pytest.mark.parametrize("cut", [5, 20])
def test_an_edit_list_hides_the_frames_before_its_start(tmp_path: Path, make_clip: Any, cut: int) -> None:
    source = make_clip("edited_source", Clip(options={"g": "16", "bf": "2"}))

    def earlier(packet: Any) -> bool:
        step = round(1 / 25 / packet.time_base)
        packet.pts -= cut * step
        packet.dts -= cut * step
        return True

    path = remux(source, tmp_path / "edited.mp4", earlier, {"use_editlist": "1", "avoid_negative_ts": "disabled"})
    frames, _ = decode_all(path, SIZE)
    assert len(frames) == 60 - cut, "the file was not made as meant"
    for sampling in SAMPLINGS.values():
        check(path, frames, sampling)


def test_a_recording_that_begins_between_keyframes(tmp_path: Path, make_clip: Any) -> None:
    source = make_clip("long_ts", Clip("ts", options={"g": "25", "bf": "2"}, num_frames=90))
    data = source.read_bytes()
    path = tmp_path / "joined_late.ts"
    path.write_bytes(data[len(data) // 5 // 188 * 188 :])
    frames, _ = decode_all(path, SIZE)
    assert 30 < len(frames) < 90
    for sampling in SAMPLINGS.values():
        check(path, frames, sampling)


def test_the_default_of_several_video_streams_is_read(tmp_path: Path) -> None:
    from av.stream import Disposition

    path = tmp_path / "two.mp4"
    other, default = Clip(size=(32, 32), num_frames=30), Clip(num_frames=20)
    with av.open(str(path), "w") as container:
        streams = [add_stream(container, other), add_stream(container, default)]
        streams[0].disposition, streams[1].disposition = Disposition(0), Disposition.default
        packets = [list(encoded(stream, made)) for stream, made in zip(streams, (other, default), strict=True)]
        for packet in [*packets[0], *packets[1]]:
            container.mux(packet)
    frames, _ = decode_all(path, SIZE)
    assert len(frames) == 20
    check(path, frames, SAMPLINGS["uniform 8"])


def test_a_cover_picture_is_no_video(tmp_path: Path) -> None:
    from av.stream import Disposition

    path = tmp_path / "covered.mp4"
    cover, film = Clip(codec="mjpeg", pixels="yuvj420p", size=(200, 200), num_frames=1), Clip(num_frames=20)
    with av.open(str(path), "w") as container:
        streams = [add_stream(container, cover), add_stream(container, film)]
        streams[0].disposition = Disposition.attached_pic
        for stream, made in zip(streams, (cover, film), strict=True):
            for packet in encoded(stream, made):
                container.mux(packet)
    frames, _ = decode_all(path, SIZE)
    assert len(frames) == 20
    check(path, frames, SAMPLINGS["uniform 8"])


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
    with pytest.raises(MediaError, match=r"start is 60 s, but the video lasts 3\.00 s"):
        read_video(path, sampling=FrameSampling(start=60.0))
