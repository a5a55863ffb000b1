"""The program of a media process, which decodes one medium at a time: ``python -m video_llama.apps.media.process``.

It runs with its own limits, without access to weights, keys and other requests, so a file that crashes or takes over
the decoder affects only this process. It reads bytes from standard input and writes frames and sound clips to standard
output (``wire.py``); it opens no file named by a request.
"""

from __future__ import annotations

import os
import resource
import sys
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO

import av
from PIL import Image

from video_llama.apps.media.wire import (
    LENGTH,
    header_length,
    options_of,
    pack,
    pack_medium,
    parse_header,
    read_exactly,
)
from video_llama.errors import MediaError
from video_llama.processors.media_file import MediaFile
from video_llama.processors.medium import ReadMedium, read_medium
from video_llama.processors.scene_cuts import ScenePlan
from video_llama.processors.settings import ProcessorSettings
from video_llama.processors.window_reader import WindowReader
from video_llama.processors.windows import Window, WindowPlan


@dataclass(frozen=True)
class Task:
    """Settings that all requests to this process share."""

    settings: ProcessorSettings
    max_frames: int
    with_audio_branch: bool
    max_seconds: float
    max_pixels: int

    @staticmethod
    def of(fields: dict[str, Any]) -> Task:
        """Return the task from the header of the first message."""
        given = fields["settings"].items()
        settings: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in given}
        rest = {name: fields[name] for name in ("max_frames", "with_audio_branch", "max_seconds", "max_pixels")}
        return Task(ProcessorSettings(**settings), **rest)


def main() -> None:
    """Read the task, then serve requests until the input ends or a request runs out of memory."""
    requests, replies = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # output of libraries must not mix with messages
    try:
        start = _read_header(requests)
    except EOFError:
        return
    Image.MAX_IMAGE_PIXELS = None  # the size is checked here, with a message that contains it
    Image.init()  # loads Pillow's plugins before time and memory are measured
    _confine(start["memory_bytes"])
    task = Task.of(start)
    replies.write(pack({"ready": True}))
    replies.flush()
    while True:
        try:
            fields = _read_header(requests)
            data = read_exactly(requests.read, fields["bytes"])
        except EOFError:
            return
        for reply, is_last in _answers(task, fields, data):
            replies.write(reply)
            replies.flush()
            if is_last:
                return


def _confine(memory_bytes: int) -> None:
    """Limit memory to the current mapping plus ``memory_bytes``; forbid writing files and core dumps."""
    with open("/proc/self/statm", encoding="ascii") as file:
        limit = int(file.read().split()[0]) * resource.getpagesize() + memory_bytes
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _read_header(requests: BinaryIO) -> dict[str, Any]:
    length = header_length(read_exactly(requests.read, LENGTH.size))
    return parse_header(read_exactly(requests.read, length))


def _answers(task: Task, fields: dict[str, Any], data: bytes) -> Iterator[tuple[bytes, bool]]:
    """Yield the replies, and whether this process must end after them. An error is the last reply."""
    try:
        for reply in _replies(task, fields, data):
            yield reply, False
    except (MediaError, ValueError, MemoryError) as error:  # ValueError: invalid options, such as too many frames
        if isinstance(error, MemoryError) or isinstance(error.__cause__, MemoryError):
            yield pack({"error": "it requires more memory than allowed", "kind": "memory"}), True
            return
        yield pack({"error": str(error), "kind": "media"}), False
    except Exception:
        traceback.print_exc()
        yield pack({"error": "the decoder failed", "kind": "bug"}), True


def _replies(task: Task, fields: dict[str, Any], data: bytes) -> Iterator[bytes]:
    """Yield the medium; or each of its ``windows``; or for ``plan`` the windows that it is divided into."""
    if fields.get("windows") is None and fields.get("plan") is None:
        yield pack_medium(_read(task, fields, data))
        return
    media = MediaFile(data, name=fields["name"])
    _check_size(task, media)
    options = options_of(fields["options"])
    with WindowReader(
        media,
        task.settings,
        options,
        max_frames=task.max_frames,
        with_audio_branch=task.with_audio_branch,
        kind=fields["medium_kind"],
    ) as reader:
        _check_seconds(task, media.name, reader.duration)
        if fields.get("plan") is not None:
            plan = ScenePlan(**fields["plan"]) if fields["is_scenes"] else WindowPlan(**fields["plan"])
            windows = reader.plan(plan)
            spans = [[window.start, window.end] for window in windows]
            yield pack({"duration": reader.duration, "windows": spans, "arrays": []})
            return
        yield from map(pack_medium, reader.read([Window(start, end) for start, end in fields["windows"]]))


def _read(task: Task, fields: dict[str, Any], data: bytes) -> ReadMedium:
    media = MediaFile(data, name=fields["name"])
    _check_size(task, media)
    medium = read_medium(
        media,
        task.settings,
        options_of(fields["options"]),
        max_frames=task.max_frames,
        with_audio_branch=task.with_audio_branch,
        kind=fields["medium_kind"],
    )
    for part in (medium.frames, medium.sound):
        if part is not None:
            _check_seconds(task, medium.source, part.duration)
    return medium


def _check_size(task: Task, media: MediaFile) -> None:
    """Raise MediaError if the header exceeds the limits, before anything is decoded."""
    with media.image() as image:
        if image is not None:
            _check_pixels(task, media.name, *image.size)
            return
    with media.container() as container:
        for stream in container.streams.video:
            if stream.codec_context is not None:
                _check_pixels(task, media.name, stream.codec_context.width, stream.codec_context.height)
        if container.duration is not None:
            _check_seconds(task, media.name, container.duration / av.time_base)


def _check_pixels(task: Task, name: str, width: int, height: int) -> None:
    if width * height > task.max_pixels:
        raise MediaError(
            f"{name} is {width} x {height} pixels; the limit is {task.max_pixels:,} pixels. Use a smaller one."
        )


def _check_seconds(task: Task, name: str, seconds: float) -> None:
    if seconds > task.max_seconds:
        raise MediaError(
            f"{name} lasts {seconds:.1f} s; the limit is {task.max_seconds:g} s. Use a shorter file, or a higher limit "
            "(max_media_seconds)."
        )


if __name__ == "__main__":
    main()
