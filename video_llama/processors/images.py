"""Pictures: one image, or a folder or list of frames that stand for a video.

In: image files. Out: uint8 RGB [T, 3, H, W], resized by PIL's bicubic filter with both axes stretched, as the
reference's image processor does (bit for bit).
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from video_llama.errors import MediaError
from video_llama.processors.sources import MediaFile, as_media, natural_key

if TYPE_CHECKING:
    from PIL.Image import Image

# What PIL may decide by content; everything else goes to PyAV. GIF counts as an image only with a single frame.
IMAGE_FORMATS = ("JPEG", "PNG", "BMP", "WEBP", "TIFF", "GIF", "PPM")
ANIMATED_FORMATS = ("GIF", "PNG", "WEBP")
DEEP_MODES = ("I", "I;16", "I;16B", "I;16L")  # how PIL opens 16 bit grey, by version and file
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".gif", ".ppm")


def is_image(media: MediaFile) -> bool:
    """True if the content (not the name) is a still picture."""
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(media.stream(), formats=IMAGE_FORMATS) as image:
            return image.format not in ANIMATED_FORMATS or getattr(image, "n_frames", 1) == 1
    except Image.DecompressionBombError:
        return True  # a picture, and too large: load_image says so
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError):
        return False


def load_image(media: MediaFile, size: tuple[int, int]) -> np.ndarray:
    """Return uint8 RGB [3, H, W] of ``size`` (height, width), turned upright by its EXIF tag.

    Raises ``MediaError`` for a picture that is damaged, cut short or too large.
    """
    from PIL import Image, ImageOps

    height, width = size
    try:
        with Image.open(media.stream(), formats=IMAGE_FORMATS) as image:
            upright = _rgb(ImageOps.exif_transpose(image))
            resized = upright.resize((width, height), Image.Resampling.BICUBIC)
    except Image.DecompressionBombError as error:
        raise MediaError(f"{media.name} is too large a picture ({error}). Make it smaller.") from error
    except (OSError, ValueError, SyntaxError) as error:
        raise MediaError(
            f"{media.name} cannot be read as a picture ({error}). It may be damaged or cut short: copy it again, or "
            "save it as PNG or JPEG."
        ) from error
    return np.ascontiguousarray(np.asarray(resized, dtype=np.uint8).transpose(2, 0, 1))


def _rgb(image: Image) -> Image:
    """Convert to RGB; 16 bit grey is scaled (PIL's conversion makes all above 255 white)."""
    from PIL.Image import fromarray

    if image.mode in DEEP_MODES:
        deep = np.asarray(image).astype(np.int64).clip(0, 65535)
        image = fromarray(((deep + 128) // 257).astype(np.uint8))
    return image.convert("RGB")


def has_pictures(folder: Path) -> bool:
    """Whether a folder holds frames, by their names."""
    return any(map(_is_frame_name, folder.iterdir()))


def frame_paths(folder: Path) -> list[Path]:
    """Return the pictures of a folder in natural order (2 before 10). Raises ``MediaError`` if it has none."""
    paths = sorted((path for path in folder.iterdir() if _is_frame_name(path)), key=natural_key)
    if not paths:
        raise MediaError(
            f"{folder} is a folder without pictures. Give a video file, or a folder of frames "
            f"({', '.join(IMAGE_SUFFIXES)})."
        )
    return paths


def _is_frame_name(path: Path) -> bool:
    return path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".") and path.is_file()


def load_frames(paths: Sequence[str | os.PathLike[str]], size: tuple[int, int]) -> np.ndarray:
    """Return uint8 RGB [T, 3, H, W] of these image files, each stretched to ``size`` (height, width)."""
    return np.stack([load_image(as_media(path), size) for path in paths])
