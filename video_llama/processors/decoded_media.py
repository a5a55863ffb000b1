"""Media in other forms than files: pictures and waveforms in memory, addresses, and rows of data sets.

In: Pillow images, arrays and tensors, lists of frames, ``data:`` and ``file:`` addresses, ``http(s)`` addresses if the
caller allows them. Out: a file source for ``medium.read_medium``, ``SampledVideo``, or a waveform.
"""

# T frames, H height, W width, C channels

from __future__ import annotations

import base64
import binascii
import re
import urllib.request
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import unquote, urlsplit

import numpy as np
from PIL import Image

from video_llama.errors import MediaError
from video_llama.processors.images import load_frames, resized
from video_llama.processors.media_file import check_size
from video_llama.processors.sampling import FrameSampling, choose_indices
from video_llama.processors.video_processor import FOLDER_FPS, SampledVideo

MAX_DOWNLOAD = 512 * 2**20
"""Limit of a downloaded file, in bytes."""
DOWNLOAD_SECONDS = 60.0
"""Time limit of each read of a download."""
_ADDRESS = re.compile(r"data:|[A-Za-z][A-Za-z0-9+.-]+://")
_CHANNELS = (1, 3, 4)


def as_array(value: Any) -> Any:
    """Return tensors as numpy arrays, and anything else unchanged."""
    is_tensor = hasattr(value, "detach") and hasattr(value, "ndim")
    return value.detach().cpu().numpy() if is_tensor else value


def is_picture(value: Any) -> bool:
    """Whether a value is one picture in memory: a Pillow image, or an array [H, W], [H, W, C] or [C, H, W]."""
    return isinstance(value, Image.Image) or getattr(as_array(value), "ndim", 0) in (2, 3)


def is_clip(value: Any) -> bool:
    """Whether a value is frames in memory: an array [T, H, W, C] or [T, C, H, W]."""
    return getattr(as_array(value), "ndim", 0) == 4


def resolve(source: Any, *, allow_urls: bool = False) -> Any:
    """Return the content of addresses and of data set rows (``{"bytes": ..., "path": ...}``); other values unchanged.

    Raises MediaError for an address that is not allowed, cannot be read or is too large.
    """
    if isinstance(source, Mapping) and ("bytes" in source or "path" in source):
        return source["bytes"] if source.get("bytes") is not None else resolve(source["path"], allow_urls=allow_urls)
    if not isinstance(source, str) or not _ADDRESS.match(source):
        return source
    scheme = source.partition(":")[0].lower()
    if scheme == "data":
        return _data_of(source)
    if scheme == "file":
        return unquote(urlsplit(source).path)
    if scheme not in ("http", "https"):
        raise MediaError(f"{source[:80]}: {scheme} addresses are not supported. Download the file, and give its path.")
    if not allow_urls:
        raise MediaError(
            f"{source[:80]} is not read, because addresses are not allowed. Download the file and give its path, or "
            "pass allow_urls=True if the address comes from a source that you trust."
        )
    return _download(source)


def decode_base64(text: str) -> bytes:
    """Return the bytes of base64 text. Raises MediaError for other text."""
    try:
        return base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError) as error:
        raise MediaError(f"Invalid base64 data ({error}). Encode the bytes of a media file.") from error


def _data_of(address: str) -> bytes:
    header, _, content = address.partition(",")
    return decode_base64(content) if header.endswith(";base64") else unquote(content).encode("latin-1", "replace")


def _download(address: str) -> bytes:
    try:
        with urllib.request.urlopen(address, timeout=DOWNLOAD_SECONDS) as response:
            content: bytes = response.read(MAX_DOWNLOAD + 1)
    except (OSError, ValueError) as error:
        raise MediaError(f"{address[:80]} cannot be downloaded ({error}). Download it, and give its path.") from error
    if len(content) > MAX_DOWNLOAD:
        raise MediaError(f"{address[:80]} is larger than {MAX_DOWNLOAD // 2**20} MiB. Download it, and give its path.")
    return content


def read_picture(picture: Any, size: tuple[int, int]) -> SampledVideo:
    """Return a picture in memory as a video of one frame, resized to ``size`` as an image file is."""
    return SampledVideo(_frame(picture, size)[None], [0], [0.0], FOLDER_FPS, 1, 0.0, "<image>", "image")


def read_frames(
    frames: Any,
    size: tuple[int, int],
    sampling: FrameSampling | None,
    max_frames: int,
    metadata: Mapping[str, Any] | None = None,
) -> SampledVideo:
    """Return the sampled frames of a video that was decoded before.

    Args:
        frames: an array [T, H, W, C] or [T, C, H, W], or a list of pictures, paths or bytes of images.
        sampling: which frames are read; None keeps all.
        metadata: ``fps`` of the video and ``frames_indices`` of the frames in it (default: 1, and all frames).

    Raises:
        MediaError: a frame that cannot be read.
        ValueError: more frames than ``max_frames``, or invalid values.
    """
    frames = as_array(frames)
    metadata = metadata or {}
    fps = float(metadata.get("fps") or FOLDER_FPS)
    positions = list(metadata.get("frames_indices") or range(len(frames)))
    if len(frames) == 0 or len(positions) != len(frames):
        raise ValueError(f"The video has {len(frames)} frames and {len(positions)} frames_indices. Give as many.")
    seconds = [position / fps for position in positions]
    times = [second - seconds[0] for second in seconds]
    sampling = sampling or FrameSampling(num_frames=len(frames))
    chosen = choose_indices(times, times[-1] + 1 / fps, sampling, max_frames)
    pictures = np.stack([_frame(frames[index], size) for index in chosen])
    total = int(metadata.get("total_num_frames") or len(frames))
    duration = float(metadata.get("duration") or total / fps)
    indices = [int(positions[index]) for index in chosen]
    return SampledVideo(
        pictures, indices, [seconds[i] for i in chosen], fps, total, duration, f"{len(frames)} frames", "frames"
    )


def _frame(picture: Any, size: tuple[int, int]) -> np.ndarray:
    if not is_picture(picture):
        return load_frames([resolve(picture)], size)[0]  # type: ignore[no-any-return]
    image = picture if isinstance(picture, Image.Image) else _image_of(np.asarray(as_array(picture)))
    check_size("The image", *image.size)
    return resized(image, size)


def _image_of(values: np.ndarray) -> Image.Image:
    """Return an array [H, W], [H, W, C] or [C, H, W] as an image; numbers with a fraction are scaled from 0..1."""
    if values.ndim == 2:
        values = values[None]
    if values.shape[0] in _CHANNELS:
        values = values.transpose(1, 2, 0)
    if values.shape[-1] not in _CHANNELS or 0 in values.shape:
        raise ValueError(f"A picture has shape {list(values.shape)}. Give [height, width, 3] or [3, height, width].")
    if values.dtype != np.uint8:
        values = _as_bytes(values)
    channels = np.repeat(values, 3, axis=-1) if values.shape[-1] == 1 else values
    return Image.fromarray(np.ascontiguousarray(channels))


def _as_bytes(values: np.ndarray) -> np.ndarray:
    lowest, highest = float(values.min()), float(values.max())
    if not (lowest >= 0 and highest <= 255):  # false for NaN
        raise ValueError(
            f"A picture has values from {lowest:g} to {highest:g}. Give 0 to 255, or 0 to 1; do not normalize it."
        )
    is_unit = values.dtype.kind == "f" and highest <= 1
    return np.rint(values.astype(np.float64) * (255 if is_unit else 1)).astype(np.uint8)


def is_waveform(value: Any) -> bool:
    """Whether a value is sound in memory: samples, ``(samples, rate)``, or ``{"array": ..., "sampling_rate": ...}``."""
    if isinstance(value, Mapping):
        return "array" in value
    if isinstance(value, tuple) and len(value) == 2 and isinstance(value[1], int | float):
        return is_waveform(value[0])
    is_numbers = isinstance(value, Sequence) and len(value) > 0 and isinstance(value[0], float)
    return is_numbers or getattr(as_array(value), "ndim", 0) in (1, 2)


def waveform_of(value: Any, rate: float) -> tuple[np.ndarray, int]:
    """Return samples as float [channels, samples], and their rate in Hz; ``rate`` is that of samples without one."""
    if isinstance(value, Mapping):
        value, rate = value["array"], value.get("sampling_rate") or rate
    elif isinstance(value, tuple):
        value, rate = value
    samples = np.atleast_2d(np.asarray(as_array(value)))
    if samples.dtype.kind == "i":
        samples = samples / float(np.iinfo(samples.dtype).max + 1)
    if samples.shape[0] > samples.shape[1]:
        samples = samples.T
    return samples.astype(np.float32), int(rate)
