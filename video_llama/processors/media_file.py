"""One media file, opened once: its bytes are read by Pillow and by PyAV, and its kind is determined once.

In: a path, bytes or a binary file object. Out: a ``MediaFile``, which gives out Pillow streams and PyAV containers.
"""

from __future__ import annotations

import io
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO, Literal

import av
from av.container import InputContainer
from av.stream import Disposition
from PIL import Image, UnidentifiedImageError

from video_llama.errors import MediaError

BytesLike = bytes | bytearray | memoryview
FrameListSource = list[Any] | tuple[Any, ...]
"""Paths of image files, which are the frames of one video."""
FileKind = Literal["video", "image", "audio"]
MediaKind = Literal["video", "image", "frames", "audio"]

IMAGE_FORMATS = ("JPEG", "PNG", "BMP", "WEBP", "TIFF", "GIF", "PPM")
"""Formats that Pillow reads; everything else goes to PyAV."""
ANIMATED_FORMATS = ("GIF", "PNG", "WEBP")
"""Formats that are images only if they have a single frame."""

# A playlist (HLS, DASH, ffconcat) can name other files and addresses. Only the given file is read.
OPEN_OPTIONS = {"protocol_whitelist": "none"}


class MediaFile:
    """A media file that is opened at most once, at its first use, and closed by ``close`` or at the end of ``with``.

    A path is opened again if it is used after that. File objects given by the caller are never closed.

    Args:
        source: path of a file, its bytes, or a binary file object.
        name: name in messages and records (default: the path, or the name of the file object).

    Raises:
        MediaError: the file does not exist, is a folder, or is empty.
        ValueError: ``source`` has another type.
    """

    def __init__(self, source: str | os.PathLike[str] | BytesLike | BinaryIO, name: str | None = None) -> None:
        self.num_opened = 0
        """How many times the file was opened."""
        self.num_containers = 0
        """How many PyAV containers were opened on it."""
        self._path: Path | None = None
        self._file: BinaryIO | None = None
        self._probed: InputContainer | None = None
        if isinstance(source, (bytes, bytearray, memoryview)):
            self.name = name or "<bytes>"
            self._file = io.BytesIO(source)
        elif isinstance(source, (str, os.PathLike)):
            self.name = name or str(source)
            self._path = _checked_path(source)
        elif hasattr(source, "read"):
            own_name = getattr(source, "name", None)
            self.name = name or (own_name if isinstance(own_name, str) else "<file object>")
            seekable = bool(getattr(source, "seekable", lambda: False)())
            self._file = source if seekable else io.BytesIO(source.read())
        else:
            raise ValueError(f"A source is a path, bytes or a binary file object, not {type(source).__name__}.")
        if self._file is not None and self._file.seek(0, os.SEEK_END) == 0:
            raise MediaError(f"{self.name} is empty (0 bytes). Give the whole content of a media file.")

    def __enter__(self) -> MediaFile:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file if it was opened from a path."""
        if self._probed is not None:
            self._probed.close()
            self._probed = None
        if self._path is not None and self._file is not None:
            self._file.close()
            self._file = None

    @cached_property
    def kind(self) -> FileKind:
        """The kind of the content, whatever the file's name. Raises MediaError if it is not a media file."""
        if self.is_image:
            return "image"
        container = self._open_container()
        has_video, has_audio = has_video_stream(container), bool(container.streams.audio)
        if not has_video and not has_audio:
            container.close()
            raise MediaError(f"{self.name} has neither a video nor an audio stream. Give a video, an image or a sound.")
        self._probed = container  # nothing has been read from its streams yet: the first reader takes it
        return "video" if has_video else "audio"

    @cached_property
    def is_image(self) -> bool:
        """Whether the content is a single still image."""
        try:
            with Image.open(self.stream(), formats=IMAGE_FORMATS) as image:
                return image.format not in ANIMATED_FORMATS or getattr(image, "n_frames", 1) == 1
        except Image.DecompressionBombError:
            return True  # too large; reading it raises the error
        except (UnidentifiedImageError, OSError, ValueError, SyntaxError):
            return False

    def stream(self) -> BinaryIO:
        """Return a new view of the bytes, at position 0. Views do not move each other's position."""
        return io.BufferedReader(_View(self._opened(), self.name))

    @contextmanager
    def container(self) -> Iterator[InputContainer]:
        """Open the file with PyAV, from its start. Raises MediaError if it is not a media file."""
        container, self._probed = self._probed or self._open_container(), None
        with container:
            yield container

    def _open_container(self) -> InputContainer:
        view = _View(self._opened(), self.name)
        self.num_containers += 1
        try:
            return av.open(view, mode="r", options=OPEN_OPTIONS, metadata_errors="replace")
        except (av.error.FFmpegError, UnicodeError, ValueError) as error:
            raise MediaError(
                f"{self.name} cannot be read as video or sound ({_reason(error)}). It may be damaged, truncated, or "
                "another kind of file. Play it in a media player, or convert it: ffmpeg -i FILE out.mp4"
            ) from error

    def _opened(self) -> BinaryIO:
        if self._file is None:
            assert self._path is not None
            try:
                self._file = self._path.open("rb")
            except OSError as error:
                raise MediaError(f"{self.name} cannot be read ({error.strerror}). Check its permissions.") from error
            self.num_opened += 1
        return self._file


Source = str | os.PathLike[str] | BytesLike | BinaryIO | MediaFile
MediaSource = Source | FrameListSource


class _View(io.RawIOBase):
    """A reader with its own position in a shared file."""

    def __init__(self, file: BinaryIO, name: str) -> None:
        super().__init__()
        self._file, self._position = file, 0
        self.name = name  # FFmpeg uses its suffix to recognize some formats

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        if whence == os.SEEK_END:
            offset += self._file.seek(0, os.SEEK_END)
        elif whence == os.SEEK_CUR:
            offset += self._position
        if offset < 0:
            raise OSError(f"negative seek position {offset}")
        self._position = offset
        return offset

    def tell(self) -> int:
        return self._position

    def readinto(self, buffer: Any) -> int:
        self._file.seek(self._position)
        data = self._file.read(len(buffer))
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)


@contextmanager
def open_media(source: Source) -> Iterator[MediaFile]:
    """Yield the source as a ``MediaFile``; one that was opened here is closed at the end. Raises as ``MediaFile``."""
    if isinstance(source, MediaFile):
        yield source
        return
    with MediaFile(source) as media:
        yield media


def has_video_stream(container: InputContainer) -> bool:
    """Whether there is a video stream; the cover picture of a music file does not count."""
    return any(not stream.disposition & Disposition.attached_pic for stream in container.streams.video)


def is_folder(source: object) -> bool:
    """Whether a source is the path of a folder."""
    return isinstance(source, (str, os.PathLike)) and os.path.isdir(source)


def natural_key(path: Path) -> tuple[tuple[int, int, str], ...]:
    """Return a sort key that orders frame_2 before frame_10."""
    parts = re.findall(r"[0-9]+|[^0-9]+", path.name)
    return tuple((0, int(part), "") if part.isdecimal() else (1, 0, part.lower()) for part in parts)


def _checked_path(source: str | os.PathLike[str]) -> Path:
    path = Path(source)
    try:
        size = path.stat().st_size
    except (OSError, ValueError) as error:
        raise MediaError(f"{source} does not exist or cannot be read. Check the path.") from error
    if path.is_dir():
        raise MediaError(f"{source} is a folder, not a media file. Give a file.")
    if size == 0 and path.is_file():
        raise MediaError(f"{source} is empty (0 bytes). Copy or download it again.")
    return path


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
