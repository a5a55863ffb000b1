"""The media arguments of a processor as flat lists: one medium, a list, or a list for each prompt.

In: the argument ``images``, ``videos`` or ``audio``. Out: ``GivenMedia``.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from video_llama.processors.decoded_media import as_array, is_clip, is_picture, is_waveform
from video_llama.processors.images import IMAGE_SUFFIXES


@dataclass(frozen=True)
class GivenMedia:
    """Media in prompt order. ``counts`` has the number of media of each prompt, if the caller gave a list for each."""

    items: list[Any]
    counts: list[int] | None = None


def given_images(images: Any) -> GivenMedia:
    """Return the images of an argument."""
    if images is None:
        return GivenMedia([])
    return _given(images, is_medium=lambda value: not isinstance(value, (list, tuple)))


def given_videos(videos: Any) -> GivenMedia:
    """Return the videos of an argument. A list of pictures, or of names of image files, is one video."""
    if videos is None:
        return GivenMedia([])
    array = as_array(videos)
    if getattr(array, "ndim", 0) == 5:
        videos = list(array)
    return _given(videos, is_medium=_is_video)


def given_audio(audio: Any) -> GivenMedia:
    """Return the sounds of an argument. An array [samples] or [channels, samples] is one sound."""
    if audio is None:
        return GivenMedia([])
    return _given(audio, is_medium=lambda value: not isinstance(value, (list, tuple)) or is_waveform(value))


def _is_video(value: Any) -> bool:
    if not isinstance(value, (list, tuple)):
        return True
    return len(value) > 0 and (all(map(is_picture, value)) or all(map(_is_image_name, value)))


def _is_image_name(value: Any) -> bool:
    return isinstance(value, (str, os.PathLike)) and Path(value).suffix.lower() in IMAGE_SUFFIXES


def _given(value: Any, is_medium: Callable[[Any], bool]) -> GivenMedia:
    if is_medium(value) and not (isinstance(value, (list, tuple)) and any(map(is_clip, value))):
        return GivenMedia([value])
    rows = [each if each is not None else [] for each in value]
    if rows and not any(is_medium(row) and not _is_empty(row) for row in rows):
        flat = [[item for item in row if item is not None] for row in rows]
        return GivenMedia([item for row in flat for item in row], [len(row) for row in flat])
    return GivenMedia([row for row in rows if not _is_empty(row)])


def _is_empty(row: Any) -> bool:
    return isinstance(row, (list, tuple)) and len(row) == 0
