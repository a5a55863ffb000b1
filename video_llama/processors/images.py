"""Read image files: one image, or the frames of a video as a folder or list of images.

In: image files. Out: uint8 RGB [T, 3, H, W], resized by PIL's bicubic filter with both axes stretched, as the
reference's image processor does (bit for bit).
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from video_llama.errors import MediaError
from video_llama.processors.media_file import IMAGE_FORMATS, MediaFile, Source, natural_key, open_media

DEEP_MODES = ("I", "I;16", "I;16B", "I;16L")  # modes of 16-bit greyscale, by Pillow version and file
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".gif", ".ppm")


def load_image(media: MediaFile, size: tuple[int, int]) -> np.ndarray:
    """Return uint8 RGB [3, H, W] of ``size`` (height, width), rotated as its EXIF orientation specifies.

    Raises MediaError for an image that is damaged, truncated or too large.
    """
    height, width = size
    try:
        with Image.open(media.stream(), formats=IMAGE_FORMATS) as image:
            upright = _rgb(ImageOps.exif_transpose(image))
            resized = upright.resize((width, height), Image.Resampling.BICUBIC)
    except Image.DecompressionBombError as error:
        raise MediaError(f"{media.name} is too large ({error}). Give a smaller image.") from error
    except (OSError, ValueError, SyntaxError) as error:
        reason = "not a known image format" if isinstance(error, UnidentifiedImageError) else error
        raise MediaError(
            f"{media.name} cannot be read as an image ({reason}). It may be damaged or truncated: copy it again, or "
            "save it as PNG or JPEG."
        ) from error
    return np.ascontiguousarray(np.asarray(resized, dtype=np.uint8).transpose(2, 0, 1))


def _rgb(image: Image.Image) -> Image.Image:
    """Convert to RGB; 16-bit greyscale is scaled (Pillow's conversion clips values above 255 to white)."""
    if image.mode in DEEP_MODES:
        deep = np.asarray(image).astype(np.int64).clip(0, 65535)
        image = Image.fromarray(((deep + 128) // 257).astype(np.uint8))
    return image.convert("RGB")


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
