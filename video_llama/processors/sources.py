"""Where media come from: a path, bytes or a binary file object, opened with PyAV.

In: what a caller calls a source. Out: a ``MediaFile`` that can be opened again and again, with a name for messages.
"""

from __future__ import annotations

import io
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from video_llama.errors import MediaError

if TYPE_CHECKING:
    from av.container import InputContainer

BytesLike = bytes | bytearray | memoryview
Source = str | os.PathLike[str] | BytesLike | BinaryIO
FrameListSource = Sequence[str | os.PathLike[str]]

# A playlist (HLS, DASH) may name any address; only the file that was given is to be read. Bytes have no neighbours at
# all: a playlist that is sent to a server must not read the server's files.
OPEN_OPTIONS = {"protocol_whitelist": "file"}
DATA_OPTIONS = {"protocol_whitelist": "none"}


@dataclass(frozen=True)
class MediaFile:
    """One source: ``path`` of a file that exists, or ``data``, a seekable binary stream."""

    name: str
    path: Path | None = None
    data: BinaryIO | None = None

    def stream(self) -> Path | BinaryIO:
        """Return what PIL opens: the path, or the data from its first byte."""
        if self.data is not None:
            self.data.seek(0)
            return self.data
        assert self.path is not None
        return self.path

    @contextmanager
    def peek(self) -> Iterator[BinaryIO]:
        """Give the bytes to read beside an open container, whose place in them is kept."""
        if self.data is None:
            assert self.path is not None
            with self.path.open("rb") as file:
                yield file
            return
        place = self.data.tell()
        try:
            yield self.data
        finally:
            self.data.seek(place)

    @contextmanager
    def open(self) -> Iterator[InputContainer]:
        """Open the container from its start. Raises ``MediaError`` if it is not a media file."""
        import av

        source = self.stream()
        try:
            # "file:" keeps a colon in a name from being read as a protocol.
            file = f"file:{source}" if isinstance(source, Path) else source
            options = OPEN_OPTIONS if self.data is None else DATA_OPTIONS
            container = av.open(file, mode="r", options=options, metadata_errors="replace")
        except (av.error.FFmpegError, UnicodeError, ValueError) as error:
            raise MediaError(
                f"{self.name} cannot be read as video or sound ({_reason(error)}). It may be damaged, cut short, or "
                "another kind of file. Play it in a media player, or convert it: ffmpeg -i FILE out.mp4"
            ) from error
        with container:
            yield container


def has_video_stream(container: InputContainer) -> bool:
    """Whether there is a video stream; the cover of a piece of music is none."""
    from av.stream import Disposition

    return any(not stream.disposition & Disposition.attached_pic for stream in container.streams.video)


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


def is_folder(source: object) -> bool:
    """Whether a source is the path of a folder; a name that the file system cannot have is none."""
    return isinstance(source, (str, os.PathLike)) and os.path.isdir(source)


def as_media(source: Source) -> MediaFile:
    """Check that ``source`` exists and is not empty. Raises ``MediaError`` (file) or ``ValueError`` (wrong type)."""
    if isinstance(source, (bytes, bytearray, memoryview)):
        return _checked_data("<bytes>", io.BytesIO(source))
    if isinstance(source, (str, os.PathLike)):
        path = Path(source)
        try:
            size = path.stat().st_size
        except (OSError, ValueError) as error:
            raise MediaError(f"{source} does not exist or cannot be read. Check the path.") from error
        if path.is_dir():
            raise MediaError(f"{source} is a folder, not a media file. Give a file.")
        if size == 0 and path.is_file():
            raise MediaError(f"{source} is empty (0 bytes). Copy or download it again.")
        return MediaFile(str(source), path=path)
    if hasattr(source, "read"):
        name = getattr(source, "name", None)
        seekable = bool(getattr(source, "seekable", lambda: False)())
        data = source if seekable else io.BytesIO(source.read())
        return _checked_data(name if isinstance(name, str) else "<file object>", data)
    raise ValueError(f"A source is a path, bytes or a binary file object, not {type(source).__name__}.")


def _checked_data(name: str, data: BinaryIO) -> MediaFile:
    if data.seek(0, os.SEEK_END) == 0:
        raise MediaError(f"{name} is empty (0 bytes). Give the whole content of a media file.")
    return MediaFile(name, data=data)


def natural_key(path: Path) -> tuple[tuple[int, int, str], ...]:
    """Sort key that puts frame_2 before frame_10."""
    parts = re.findall(r"[0-9]+|[^0-9]+", path.name)
    return tuple((0, int(part), "") if part.isdecimal() else (1, 0, part.lower()) for part in parts)
