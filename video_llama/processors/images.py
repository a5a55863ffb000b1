"""Read image files: one image, or the frames of a video as a folder or list of images.

In: image files. Out: uint8 RGB [T, 3, H, W], resized by PIL's bicubic filter with both axes stretched, as the
reference's image processor does (bit for bit).
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from video_llama.errors import MediaError
from video_llama.processors.media_file import MediaFile, Source, decoding_errors, natural_key, open_media

DEEP_MODES = ("I", "I;16", "I;16B", "I;16L")  # modes of 16-bit greyscale, by Pillow version and file
ROWS_AT_ONCE = 1024  # rows of a greyscale image that are scaled at a time, to bound memory
MAX_ANIMATION_FRAMES = 10_000
MAX_ANIMATION_PIXELS = 4_000_000_000
"""Maximum width x height x number of frames of an animated image, since every frame draws the whole canvas."""
ANIMATION_FPS = 10.0  # for animations without durations, as browsers show them
IMAGE_SUFFIXES = (
    *(".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".gif", ".ppm", ".avif", ".heic", ".heif"),
)


def load_image(media: MediaFile, size: tuple[int, int]) -> np.ndarray:
    """Return uint8 RGB [3, H, W] of ``size`` (height, width), rotated as its EXIF orientation specifies.

    Raises MediaError for an image that is damaged, truncated or too large.
    """
    with _image_errors(media), media.image() as image:
        if image is None:
            raise ValueError("not a known image format")
        return resized(image, size)


@dataclass(frozen=True)
class Animation:
    """The frames of an animated image that Pillow reads: start times in seconds, and the total duration."""

    media: MediaFile
    seconds: list[float]
    duration: float

    def load(self, indices: Sequence[int], size: tuple[int, int]) -> np.ndarray:
        """Return uint8 RGB [T, 3, H, W] of the frames ``indices`` (ascending), resized to ``size``."""
        frames = []
        with _image_errors(self.media), self.media.image() as image:
            assert image is not None, "opened before"
            for index in indices:
                image.seek(index)
                frames.append(resized(image, size))
        return np.stack(frames)


def open_animation(media: MediaFile) -> Animation:
    """List the frames of an animated image. Raises MediaError if it is damaged or too large."""
    with _image_errors(media), media.image() as image:
        assert image is not None, "opened before"
        num_frames = int(getattr(image, "n_frames", 1))
        check_animation(media.name, num_frames, *image.size)
        durations = []
        for index in range(num_frames):
            image.seek(index)
            image.load()
            durations.append(float(image.info.get("duration", 0)) / 1000 or 1 / ANIMATION_FPS)
    ends = list(itertools.accumulate(durations))
    return Animation(media, [0.0, *ends[:-1]], ends[-1])


def check_animation(name: str, num_frames: int, width: int, height: int) -> None:
    """Raise MediaError if an animated image exceeds the limits."""
    if num_frames > MAX_ANIMATION_FRAMES or num_frames * width * height > MAX_ANIMATION_PIXELS:
        raise MediaError(
            f"{name} is an animation of {num_frames:,} frames of {width} x {height} pixels. The limits are "
            f"{MAX_ANIMATION_FRAMES:,} frames and {MAX_ANIMATION_PIXELS:,} pixels in all frames. Convert it to a "
            "video: ffmpeg -i FILE out.mp4"
        )


def _image_errors(media: MediaFile) -> AbstractContextManager[None]:
    return decoding_errors(media.name, "an image", "Please copy it again, or save it as PNG or JPEG.")


def resized(image: Image.Image, size: tuple[int, int]) -> np.ndarray:
    """Return uint8 RGB [3, H, W] of ``size`` (height, width), rotated as the image's EXIF orientation specifies."""
    height, width = size
    upright = _rgb(ImageOps.exif_transpose(image))
    resized = upright.resize((width, height), Image.Resampling.BICUBIC)
    return np.ascontiguousarray(np.asarray(resized, dtype=np.uint8).transpose(2, 0, 1))


def _rgb(image: Image.Image) -> Image.Image:
    """Convert to RGB. Pillow's conversion clips values above 255 to white and fractions to black.

    16-bit greyscale is scaled. Floating-point greyscale is scaled from 0..1 if no value exceeds 1, else from 0..255 or
    0..65535.
    """
    if image.mode in DEEP_MODES:
        image = _scaled_grey(image, 255 / 65535)
    elif image.mode == "F":
        values = np.asarray(image)
        highest = float(np.nanmax(values, initial=0.0))
        image = _scaled_grey(image, 255.0 if highest <= 1 else 1.0 if highest <= 255 else 255 / 65535)
    return image.convert("RGB")


def _scaled_grey(image: Image.Image, factor: float) -> Image.Image:
    values = np.asarray(image)
    grey = np.empty(values.shape, dtype=np.uint8)
    for start in range(0, len(values), ROWS_AT_ONCE):
        rows = np.nan_to_num(values[start : start + ROWS_AT_ONCE].astype(np.float64), nan=0.0)
        grey[start : start + ROWS_AT_ONCE] = np.clip(np.floor(rows * factor + 0.5), 0, 255)
    return Image.fromarray(grey)


def has_pictures(folder: Path) -> bool:
    """Whether a folder contains image files, by their names."""
    return any(map(_is_frame_name, folder.iterdir()))


def frame_paths(folder: Path) -> list[Path]:
    """Return the image files of a folder in natural order (2 before 10). Raises MediaError if there are none."""
    paths = sorted((path for path in folder.iterdir() if _is_frame_name(path)), key=natural_key)
    if not paths:
        raise MediaError(
            f"{folder} contains no images. Give a video file, or a folder of frames ({', '.join(IMAGE_SUFFIXES)})."
        )
    return paths


def _is_frame_name(path: Path) -> bool:
    return path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".") and path.is_file()


def load_frames(paths: Sequence[str | os.PathLike[str]], size: tuple[int, int]) -> np.ndarray:
    """Return uint8 RGB [T, 3, H, W] of these image files, each stretched to ``size`` (height, width)."""
    return np.stack([_load(path, size) for path in paths])


def _load(source: Source, size: tuple[int, int]) -> np.ndarray:
    with open_media(source) as media:
        return load_image(media, size)
