"""The process that decodes media, one request after another: ``python -m video_llama.apps.media.process``.

It lives behind limits of its own and apart from weights, keys and other people's requests: a file that breaks the
decoder, or takes it over, breaks this. Bytes come in on standard input, frames and sound clips go out on standard
output (``wire``); it opens no file that a request names.
"""

from __future__ import annotations

import os
import resource
import sys
import traceback
from dataclasses import dataclass
from typing import Any, BinaryIO

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
from video_llama.processors.media_file import IMAGE_FORMATS, MediaFile
from video_llama.processors.medium import ReadMedium, read_medium
from video_llama.processors.settings import ProcessorSettings

MICROSECONDS = 1_000_000
"""libav's unit of a container's duration."""


@dataclass(frozen=True)
class Task:
    """What every request to this process has in common."""

    settings: ProcessorSettings
    max_frames: int
    with_audio_branch: bool
    max_seconds: float
    max_pixels: int

    @staticmethod
    def of(fields: dict[str, Any]) -> Task:
        """The task in the first message's header."""
        given = fields["settings"].items()
        settings: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in given}
        rest = {name: fields[name] for name in ("max_frames", "with_audio_branch", "max_seconds", "max_pixels")}
        return Task(ProcessorSettings(**settings), **rest)


def main() -> None:
    """Take the task, then requests until the input ends. A request that runs out of memory is this process's last."""
    requests, replies = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints must not stand between the messages
    try:
        start = _read_header(requests)
    except EOFError:
        return
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
        reply, is_last = _answer(task, fields, data)
        replies.write(reply)
        replies.flush()
        if is_last:
            return


def _confine(memory_bytes: int) -> None:
    """No more memory than this beside what is mapped by now, no file written, no core dumped."""
    with open("/proc/self/statm", encoding="ascii") as file:
        limit = int(file.read().split()[0]) * resource.getpagesize() + memory_bytes
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _read_header(requests: BinaryIO) -> dict[str, Any]:
    length = header_length(read_exactly(requests.read, LENGTH.size))
    return parse_header(read_exactly(requests.read, length))


def _answer(task: Task, fields: dict[str, Any], data: bytes) -> tuple[bytes, bool]:
    """The reply, and whether this process should end after it."""
    try:
        return pack_medium(_read(task, fields, data)), False
    except (MediaError, ValueError) as error:  # a ValueError is about the options, more frames than the model has
        return pack({"error": str(error), "kind": "media"}), False
    except MemoryError:
        return pack({"error": "it needs more memory than a medium may take", "kind": "memory"}), True
    except Exception:
        traceback.print_exc()
        return pack({"error": "the decoder failed", "kind": "bug"}), True


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
    """Refuse by what the file says of itself, before anything of it is decoded."""
    if media.is_image:
        with Image.open(media.stream(), formats=IMAGE_FORMATS) as image:
            _check_pixels(task, media.name, *image.size)
        return
    with media.container() as container:
        for stream in container.streams.video:
            if stream.codec_context is not None:
                _check_pixels(task, media.name, stream.codec_context.width, stream.codec_context.height)
        if container.duration is not None:
            _check_seconds(task, media.name, container.duration / MICROSECONDS)


def _check_pixels(task: Task, name: str, width: int, height: int) -> None:
    if width * height > task.max_pixels:
        raise MediaError(f"{name} is {width} x {height} pixels; the server takes {task.max_pixels:,}. Make it smaller.")


def _check_seconds(task: Task, name: str, seconds: float) -> None:
    if seconds > task.max_seconds:
        raise MediaError(f"{name} lasts {seconds:.1f} s; the server takes {task.max_seconds:g} s. Cut a part out.")


if __name__ == "__main__":
    main()
