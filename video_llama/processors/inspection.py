"""What is in a media file, as plain dicts."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import av

from video_llama.errors import MediaError
from video_llama.processors.media_file import MediaFile
from video_llama.processors.medium import MediaOptions, media_kind, read_medium
from video_llama.processors.settings import ProcessorSettings

if TYPE_CHECKING:
    pass

MAX_FRAMES = 32
"""The reference's ``max_frame_pos``: what a file would give to a model of its settings."""


def inspect_media(path: Path) -> dict[str, Any]:
    """A file's streams, and what the reference's settings would take from it.

    A sound track that cannot be read is told under ``sound_error``. Raises MediaError for everything else.
    """
    kind = media_kind(path)
    report: dict[str, Any] = {"path": str(path), "kind": kind}
    if kind in ("video", "audio"):
        report |= _container(path)
    limits: dict[str, Any] = {"max_frames": MAX_FRAMES, "with_audio_branch": True, "kind": kind}
    settings = ProcessorSettings()
    try:
        medium = read_medium(path, settings, MediaOptions(), **limits)
    except MediaError as error:
        if kind != "video":
            raise
        medium = read_medium(path, settings, MediaOptions(no_audio=True), **limits)
        report["sound_error"] = str(error)
    return {**report, "sampled": medium.as_dict()}


def _container(path: Path) -> dict[str, Any]:
    with MediaFile(path) as media, media.container() as container:
        duration = None if container.duration is None else container.duration / 1_000_000
        streams = [_stream(stream) for stream in container.streams]
        rotation = _rotation(container)
        report = {"format": container.format.name, "duration": duration, "bytes": os.stat(path).st_size}
    return {**report, "rotation": rotation, "streams": streams}


def _stream(stream: Any) -> dict[str, Any]:
    codec = stream.codec_context
    report: dict[str, Any] = {"type": stream.type, "codec": None if codec is None else codec.name}
    seconds = None if stream.duration is None else float(stream.duration * stream.time_base)
    if stream.type == "video":
        rate = stream.average_rate
        fps = None if rate is None else float(rate)
        report |= {"width": codec.width, "height": codec.height, "fps": fps, "frames": stream.frames or None}
    elif stream.type == "audio" and codec is not None:
        report |= {"sampling_rate": codec.sample_rate, "channels": codec.channels, "layout": codec.layout.name}
    return {**report, "duration": seconds}


def _rotation(container: Any) -> int | None:
    """Degrees counterclockwise that the first frame is to be turned by; None where there is no frame."""
    try:
        first = next(container.decode(video=0), None) if container.streams.video else None
    except av.error.FFmpegError:
        return None
    return None if first is None else int(first.rotation)
