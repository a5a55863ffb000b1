"""Pictures, and folders and lists of frames that stand for a video."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.factories.media import picture
from video_llama.errors import MediaError
from video_llama.processors.sampling import FrameSampling
from video_llama.processors.video_processor import read_image, read_video

SIZE = (56, 64)


def resized(image: Image.Image) -> np.ndarray:
    """What the reference's image processor does: PIL's bicubic filter, both axes stretched. [3, H, W]"""
    return np.asarray(image.convert("RGB").resize((SIZE[1], SIZE[0]), Image.Resampling.BICUBIC)).transpose(2, 0, 1)


def saved(path: Path, image: Image.Image, **options: object) -> Path:
    image.save(path, **options)
    return path


@pytest.mark.parametrize("suffix", ["jpg", "png", "bmp", "webp", "tif", "gif", "ppm"])
@pytest.mark.parametrize("size", [(120, 90), (1, 1), (333, 7)])
def test_every_kind_of_picture_is_a_video_of_one_frame(tmp_path: Path, suffix: str, size: tuple[int, int]) -> None:
    path = saved(tmp_path / f"a.{suffix}", Image.fromarray(picture(5, size[::-1])))
    with Image.open(path) as image:
        expected = resized(image)
    video = read_video(path, size=SIZE)
    assert np.array_equal(video.frames, expected[None])
    assert (video.kind, video.indices, video.seconds, video.message) == ("image", [0], [0.0], "")
    assert np.array_equal(read_image(path, size=SIZE).frames, video.frames)


@pytest.mark.parametrize("mode", ["L", "LA", "RGBA", "P", "1", "CMYK"])
def test_every_mode_becomes_rgb(tmp_path: Path, mode: str) -> None:
    image = Image.fromarray(picture(3, (90, 120))).convert(mode)
    path = saved(tmp_path / "a.tif", image)
    assert np.array_equal(read_image(path, size=SIZE).frames[0], resized(image))


def test_sixteen_bits_keep_their_brightness(tmp_path: Path) -> None:
    """PIL's own conversion clips values above 255 to white."""
    grey = picture(3, (90, 120))[..., 0]
    path = tmp_path / "deep.png"
    Image.fromarray(grey.astype(np.uint16) * 257).save(path)
    assert np.array_equal(read_image(path, size=SIZE).frames[0], resized(Image.fromarray(grey)))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_orientation_tag_turns_the_picture(tmp_path: Path, orientation: int) -> None:
    image = Image.fromarray(picture(9, (90, 120)))
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = saved(tmp_path / "a.png", image, exif=exif)
    undo = {
        2: (Image.Transpose.FLIP_LEFT_RIGHT,),
        3: (Image.Transpose.ROTATE_180,),
        4: (Image.Transpose.FLIP_TOP_BOTTOM,),
        5: (Image.Transpose.TRANSPOSE,),
        6: (Image.Transpose.ROTATE_270,),
        7: (Image.Transpose.TRANSVERSE,),
        8: (Image.Transpose.ROTATE_90,),
    }
    for step in undo.get(orientation, ()):
        image = image.transpose(step)
    assert np.array_equal(read_image(path, size=SIZE).frames[0], resized(image))


def test_content_counts_not_the_name(tmp_path: Path) -> None:
    path = saved(tmp_path / "picture.mp4", Image.fromarray(picture(1, (30, 40))), format="PNG")
    assert read_video(path).kind == "image"
    assert read_video(path.read_bytes()).kind == "image"
    assert read_video(io.BytesIO(path.read_bytes())).kind == "image"


def test_a_picture_cut_short(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.jpg", Image.fromarray(picture(1, (300, 400))))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(MediaError, match=r"a\.jpg cannot be read as an image.*copy it again"):
        read_video(path)


def test_a_picture_too_large_to_hold(tmp_path: Path) -> None:
    """A few kilobytes that claim 40,000 x 40,000 pixels."""
    path = saved(tmp_path / "bomb.png", Image.fromarray(np.zeros((8, 8), np.uint8)))
    data = bytearray(path.read_bytes())
    data[16:24] = (40_000).to_bytes(4, "big") * 2
    import zlib

    data[29:33] = zlib.crc32(data[12:29]).to_bytes(4, "big")
    path.write_bytes(data)
    with pytest.raises(MediaError, match=r"bomb\.png has more than 178,956,970 pixels\. Give a smaller image"):
        read_video(path)


def test_an_animated_png_is_a_video(tmp_path: Path) -> None:
    images = [Image.fromarray(picture(k, (30, 40))) for k in range(12)]
    path = tmp_path / "a.png"
    images[0].save(path, save_all=True, append_images=images[1:], duration=100)
    video = read_video(path, size=(30, 40), sampling=FrameSampling(3))
    assert (video.kind, video.total_frames, video.indices) == ("video", 12, [0, 4, 8])
    assert np.array_equal(video.frames, np.stack([picture(k, (30, 40)).transpose(2, 0, 1) for k in (0, 4, 8)]))


# Folders and lists --------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """frame_1.png ... frame_12.png, and files that are none of the frames."""
    folder = tmp_path / "frames of a film"
    folder.mkdir()
    for number in range(1, 13):
        Image.fromarray(picture(number, (30, 40))).save(folder / f"frame_{number}.png")
    (folder / "notes.txt").write_text("no frame")
    (folder / ".hidden.png").write_bytes(b"no frame")
    return folder


def test_a_folder_is_read_in_natural_order(folder: Path) -> None:
    video = read_video(folder, size=SIZE, sampling=FrameSampling(4))
    assert (video.kind, video.total_frames, video.indices, video.fps) == ("frames", 12, [0, 3, 6, 9], 1.0)
    expected = [resized(Image.fromarray(picture(number, (30, 40)))) for number in (1, 4, 7, 10)]
    assert np.array_equal(video.frames, np.stack(expected))
    assert video.message == "The video contains 4 frames sampled at 0.0, 3.0, 6.0, 9.0 seconds. "


def test_a_list_keeps_its_order_and_its_rate(folder: Path) -> None:
    paths = [folder / f"frame_{number}.png" for number in (5, 2, 9)]
    video = read_video(paths, size=SIZE, frames_fps=2.0)
    assert (video.indices, video.seconds, video.duration) == ([0, 1, 2], [0.0, 0.5, 1.0], 1.5)
    expected = [resized(Image.fromarray(picture(number, (30, 40)))) for number in (5, 2, 9)]
    assert np.array_equal(video.frames, np.stack(expected))
    late = read_video(paths, size=SIZE, frames_fps=2.0, sampling=FrameSampling(start=0.5))
    assert late.indices == [1, 2]


def test_lists_that_cannot_be_used(folder: Path) -> None:
    with pytest.raises(MediaError, match="The list of frames is empty"):
        read_video([])
    with pytest.raises(MediaError, match=r"frame_99\.png does not exist"):
        read_video([folder / "frame_99.png"])
    with pytest.raises(MediaError, match=r"notes\.txt cannot be read as an image"):
        read_video([folder / "frame_1.png", folder / "notes.txt"])
    with pytest.raises(ValueError, match="frames_fps is 0"):
        read_video(folder, frames_fps=0)


def test_a_folder_without_pictures(tmp_path: Path) -> None:
    with pytest.raises(MediaError, match=r"contains no images\. Give a video file, or a folder of frames"):
        read_video(tmp_path)
    with pytest.raises(MediaError, match=r"is a folder, not a media file\. Give a file"):
        read_image(tmp_path)
