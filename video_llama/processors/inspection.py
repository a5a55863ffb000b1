"""Describe a media file as plain dicts: its streams, and the frames and clips that a model would read from it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import av
from av.container import InputContainer

from video_llama.errors import MediaError
from video_llama.processors.media_file import MediaFile, is_folder
from video_llama.processors.medium import MediaOptions, ReadMedium, read_medium
from video_llama.processors.settings import ProcessorSettings

MAX_FRAMES = 32
"""The reference's ``max_frame_pos``."""


def inspect_media(path: Path) -> dict[str, Any]:
    """Return the streams of a file, and what a model with the reference's settings would read from it.

    A sound track that cannot be read is reported under ``sound_error``. Raises MediaError for all other errors.
    """
    if is_folder(path):
        return {"path": str(path), "kind": "frames", "sampled": _read(path, MediaOptions()).as_dict()}
    with MediaFile(path) as media:
        report: dict[str, Any] = {"path": str(path), "kind": media.kind}
        if media.kind != "image":
            report["bytes"] = os.stat(path).st_size
            with media.container() as container:
                report |= _describe_container(container)
        try:
            read = _read(media, MediaOptions())
        except MediaError as error:
            if media.kind != "video":
                raise
            read = _read(media, MediaOptions(no_audio=True))
            report["sound_error"] = str(error)
    return {**report, "sampled": read.as_dict()}


def _read(source: Path | MediaFile, options: MediaOptions) -> ReadMedium:
    return read_medium(source, ProcessorSettings(), options, max_frames=MAX_FRAMES, with_audio_branch=True)


def _describe_container(container: InputContainer) -> dict[str, Any]:
    duration = None if container.duration is None else container.duration / av.time_base
    streams = [_stream(stream) for stream in container.streams]
    rotation = _rotation(container)
    return {"format": container.format.name, "duration": duration, "rotation": rotation, "streams": streams}


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
    """Return the rotation of the first frame, in degrees counterclockwise, or None for a video without frames."""
    try:
        first = next(container.decode(video=0), None) if container.streams.video else None
    except av.error.FFmpegError:
        return None
    return None if first is None else int(first.rotation)
