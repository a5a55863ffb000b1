"""Decoded frames against a sequential decode and against decord; seeking; rotation; damaged files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from tests.factories.media import (
    Clip,
    add_stream,
    decode_all,
    patch_box,
    write_clip,
)
from tests.processors.video_formats import CLIPS, SAMPLINGS, SIZE, check
from video_llama.errors import MediaError
from video_llama.processors import video_decode, video_processor
from video_llama.processors.sampling import FrameSampling
from video_llama.processors.video_processor import read_video


@pytest.fixture(scope="module", params=list(CLIPS))
def clip(request: pytest.FixtureRequest, make_clip: Any) -> tuple[Path, list[np.ndarray]]:
    """A file and all its frames."""
    path = make_clip(request.param, CLIPS[request.param])
    return path, decode_all(path, SIZE)[0]


@pytest.mark.parametrize("name", SAMPLINGS)
def test_frames_equal_a_sequential_decode(clip: tuple[Path, list[np.ndarray]], name: str) -> None:
    check(*clip, SAMPLINGS[name])


def test_every_single_frame_can_be_had(clip: tuple[Path, list[np.ndarray]]) -> None:
    path, frames = clip
    whole = read_video(path, size=SIZE, sampling=FrameSampling(len(frames)), max_frames=len(frames))
    assert np.array_equal(whole.frames, np.stack(frames))
    for index in sorted({0, len(frames) // 2, len(frames) - 2, len(frames) - 1} - {-1}):
        one = read_video(path, size=SIZE, sampling=FrameSampling(times=(whole.seconds[index],)))
        assert one.indices == [index]
        assert np.array_equal(one.frames[0], frames[index])
        assert one.seconds == [whole.seconds[index]]


TABLED = [name for name, clip in CLIPS.items() if clip.suffix in ("mp4", "mov") and clip.num_frames > 1]


UNTIMED = ("h264_raw", "mpeg2_mpg")  # not every packet has a time: these are decoded in order


@pytest.mark.parametrize("name", [name for name in CLIPS if name not in UNTIMED])
def test_timed_files_are_never_decoded_from_their_start(
    make_clip: Any, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*arguments: Any) -> None:
        pytest.fail("the file was opened again and decoded in order")

    monkeypatch.setattr(video_processor, "decode_in_order", refuse)
    samplings = [*SAMPLINGS.values(), FrameSampling(times=(0.0, 0.01))]
    for sampling in samplings if CLIPS[name].num_frames > 1 else [FrameSampling(8)]:
        read_video(make_clip(name, CLIPS[name]), size=SIZE, sampling=sampling)


def test_seeking_decodes_a_part_of_a_long_file(make_clip: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The frames between two groups of wanted ones are not even read."""
    path = make_clip("long", Clip(options={"g": "20", "bf": "2"}, num_frames=400, size=(48, 64)))
    fed: list[int] = []
    original = video_decode._decode
    monkeypatch.setattr(video_decode, "_decode", lambda s, p: (fed.append(1) if p else None, original(s, p))[1])
    video = read_video(path, size=SIZE, sampling=FrameSampling(4))
    assert video.indices == [0, 100, 200, 300]
    assert len(fed) < 40
    fed.clear()
    late = read_video(path, size=SIZE, sampling=FrameSampling(times=(15.9,)))
    assert late.indices == [397]
    assert len(fed) < 40


def _matrix(a: int, b: int, c: int, d: int) -> bytes:
    values = (a << 16, b << 16, 0, c << 16, d << 16, 0, 0, 0, 1 << 30)
    return b"".join(value.to_bytes(4, "big", signed=True) for value in values)


ORIENTATIONS = {
    "upright": (_matrix(1, 0, 0, 1), [[1, 0], [0, 0]]),
    "90 degrees clockwise": (_matrix(0, 1, -1, 0), [[0, 1], [0, 0]]),
    "180 degrees": (_matrix(-1, 0, 0, -1), [[0, 0], [0, 1]]),
    "270 degrees clockwise": (_matrix(0, -1, 1, 0), [[0, 0], [1, 0]]),
    "mirrored left to right": (_matrix(-1, 0, 0, 1), [[0, 1], [0, 0]]),
    "mirrored top to bottom": (_matrix(1, 0, 0, -1), [[0, 0], [1, 0]]),
    "transposed": (_matrix(0, 1, 1, 0), [[1, 0], [0, 0]]),
    "transposed on the other diagonal": (_matrix(0, -1, -1, 0), [[0, 0], [0, 1]]),
}
"""Display matrix, and the quarter that shows the bright corner of the picture, which is stored at the top left."""


@pytest.mark.parametrize("name", ORIENTATIONS)
def test_every_display_matrix_is_applied(tmp_path: Path, name: str) -> None:
    def picture(size: tuple[int, int]) -> np.ndarray:
        """Bright at the top left, and less bright to the right of it, so that transpositions differ from rotations."""
        image = np.full((*size, 3), 20, np.uint8)
        image[: size[0] // 2, : size[1] // 2] = 230
        image[: size[0] // 2, size[1] // 2 :] = 100
        return image

    matrix, expected = ORIENTATIONS[name]
    flat = tmp_path / "flat.mp4"
    with av.open(str(flat), "w") as container:
        stream = add_stream(container, Clip(size=(64, 96)))
        for _ in range(10):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture((64, 96)), format="rgb24")))
        container.mux(stream.encode(None))
    path = patch_box(flat, tmp_path / "turned.mp4", b"tkhd", 40, matrix)
    video = read_video(path, size=(60, 40), sampling=FrameSampling(2))
    quarters = video.frames[0].reshape(3, 2, 30, 2, 20).mean(axis=(0, 2, 4))
    assert (quarters > 165).astype(int).tolist() == expected
    is_transposed = name in ("90 degrees clockwise", "270 degrees clockwise") or name.startswith("transposed")
    bright_row, bright_column = np.argwhere(quarters > 165)[0]
    grey_row, grey_column = np.argwhere((quarters > 60) & (quarters < 165))[0]
    assert (bright_column == grey_column) == is_transposed
    assert (bright_row == grey_row) != is_transposed


@pytest.mark.slow
def test_a_very_large_picture(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "large.mkv", Clip("mkv", "mjpeg", 1, (4320, 8192), "yuvj420p"))
    video = read_video(path)
    assert (video.total_frames, video.frames.shape) == (1, (1, 3, 224, 224))
    assert np.array_equal(video.frames[0], decode_all(path, (224, 224))[0][0])


@pytest.mark.parametrize(
    "name",
    [
        "h264_b_frames_one_keyframe",
        "h264_many_keyframes",
        "h264_open_groups",
        "h264_444_odd_size",
        "h264_mov",
        "hevc_one_keyframe",  # with several, decord's seeks land two frames late in HEVC's open groups
        "one_frame",
        "variable_rate_mp4",
    ],
)
def test_frames_and_rate_equal_decord(make_clip: Any, name: str) -> None:
    decord = pytest.importorskip("decord", reason="the reference's decoder has no wheel for this machine")
    path = make_clip(name, CLIPS[name])
    reader = decord.VideoReader(str(path), height=SIZE[0], width=SIZE[1])
    video = read_video(path, size=SIZE)
    assert video.total_frames == len(reader)
    assert video.fps == reader.get_avg_fps()
    expected = reader.get_batch(video.indices).asnumpy().transpose(0, 3, 1, 2)
    assert np.abs(video.frames.astype(int) - expected.astype(int)).max() == 0


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


def test_damage_in_the_middle_is_not_passed_over(tmp_path: Path, make_clip: Any) -> None:
    source = make_clip("one_group", Clip(options={"g": "250", "bf": "0"}, container={"movflags": "faststart"}))
    data = bytearray(source.read_bytes())
    data[len(data) // 2 :] = bytes(len(data) - len(data) // 2)
    path = tmp_path / "zeros.mp4"
    path.write_bytes(data)
    with pytest.raises(MediaError, match="is truncated or damaged"):
        read_video(path)


def test_a_video_may_change_its_size(tmp_path: Path) -> None:
    """Two recordings in one transport stream: each frame is scaled from its own size."""
    parts = [write_clip(tmp_path / f"{k}.ts", Clip("ts", size=(96 // k, 128 // k), num_frames=20)) for k in (1, 2)]
    path = tmp_path / "both.ts"
    path.write_bytes(b"".join(part.read_bytes() for part in parts))
    frames, _ = decode_all(path, (224, 224))
    assert len(frames) == 40
    video = read_video(path)
    assert np.array_equal(video.frames, np.stack([frames[i] for i in video.indices]))
