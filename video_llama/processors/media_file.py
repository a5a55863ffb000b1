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
from typing import Any, BinaryIO, Literal, TypeGuard

import av
from av import VideoStream
from av.container import InputContainer
from av.stream import Disposition
from PIL import Image

from video_llama.errors import MediaError, VideoLlamaError

BytesLike = bytes | bytearray | memoryview
FrameListSource = list[Any] | tuple[Any, ...]
"""Paths of image files, which are the frames of one video."""
FileKind = Literal["video", "image", "audio"]
MediaKind = Literal["video", "image", "frames", "audio"]

IMAGE_FORMATS = ("JPEG", "PNG", "BMP", "WEBP", "TIFF", "GIF", "PPM", "AVIF", "HEIF")
"""Formats that Pillow reads (HEIF with the extra "heic"); everything else goes to PyAV."""
ANIMATED_FORMATS = ("GIF", "PNG", "WEBP", "AVIF")
"""Formats that are images only if they have a single frame."""
MAX_SIDE = 32_768
"""Maximum width and height of an image or video, in pixels."""
MAX_PIXELS = 178_956_970
"""Maximum width x height of an image or video: Pillow's limit against decompression bombs."""

CONTAINERS = (
    *("mov", "matroska", "avi", "mpegts", "mpeg", "flv", "live_flv", "asf", "ogg", "wav", "w64", "mp3", "aac", "flac"),
    *("aiff", "caf", "au", "amr", "ac3", "eac3", "dts", "ape", "wv", "tta", "gif", "apng", "nut", "mxf", "rm", "dv"),
    *("h264", "hevc", "mpegvideo", "m4v", "ivf", "obu", "av1", "vc1", "mjpeg", "yuv4mpegpipe", "wtv", "swf"),
)
"""FFmpeg's names of the containers that are read. Text (tty), playlists and image sequences are not among them."""
# No other file is opened, whatever the container names (playlists, references).
OPEN_OPTIONS = {"protocol_whitelist": "none", "format_whitelist": ",".join(CONTAINERS)}
TS_DISCONT = 0x0200
"""FFmpeg's AVFMT_TS_DISCONT: flag of containers whose clock can jump (MPEG-TS, VOB)."""
JUMP_SECONDS = 10.0
"""In such containers a longer step forward is a jump of the clock, as in FFmpeg."""
CONVERT_VIDEO = "Play it in a media player, or convert it: ffmpeg -i FILE out.mp4"
_HEIC_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")


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
        self.duration: float | None = None
        """Length in seconds, as the container states it. None before the first container is opened."""
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
        if self.is_animation:
            return "video"
        container = self._open_container()
        has_video, has_audio = has_video_stream(container), bool(container.streams.audio)
        if not has_video and not has_audio:
            container.close()
            raise MediaError(f"{self.name} has neither a video nor an audio stream. Give a video, an image or a sound.")
        self._probed = container  # nothing has been read from its streams yet: the first reader takes it
        return "video" if has_video else "audio"

    @cached_property
    def is_image(self) -> bool:
        """Whether the content is a single still image, readable or damaged."""
        if self._is_heic:
            return True
        with self.image() as image:
            if image is None:
                return False
            try:
                return image.format not in ANIMATED_FORMATS or not getattr(image, "is_animated", False)
            except Exception:  # damaged after its header; reading it raises the error
                return True

    @cached_property
    def is_animation(self) -> bool:
        """Whether the content is an animation that Pillow reads and FFmpeg does not: WebP and AVIF sequences."""
        with self.image() as image:
            return image is not None and image.format in ("WEBP", "AVIF") and not self.is_image

    @cached_property
    def _is_heic(self) -> bool:
        head = self.stream().read(32)
        return head[4:8] == b"ftyp" and head[8:12] in _HEIC_BRANDS and b"avif" not in head and b"avis" not in head

    @contextmanager
    def image(self) -> Iterator[Image.Image | None]:
        """Open the file with Pillow; yield None if it is not an image.

        Raises MediaError for images that exceed MAX_SIDE or MAX_PIXELS, or that require an extra.
        """
        if self._is_heic:
            self._require_heif()
        try:
            opened = Image.open(self.stream(), formats=_available_formats())
        except Image.DecompressionBombError as error:
            raise MediaError(f"{self.name} has more than {MAX_PIXELS:,} pixels. Give a smaller image.") from error
        except Exception:  # Pillow's plugins raise errors of any kind for files that are not theirs
            yield None
            return
        with opened:
            check_size(self.name, *opened.size)
            yield opened

    def _require_heif(self) -> None:
        try:
            from pillow_heif import register_heif_opener
        except ImportError as error:
            raise MediaError(
                f"{self.name} is a HEIC image, which requires the extra heic: pip install 'video-llama[heic]'. Or save "
                "it as JPEG."
            ) from error
        register_heif_opener()

    def stream(self) -> BinaryIO:
        """Return a new view of the bytes, at position 0. Views do not move each other's position."""
        return io.BufferedReader(_View(self._opened(), self.name))

    @contextmanager
    def container(self) -> Iterator[InputContainer]:
        """Open the file with PyAV, from its start. Raises MediaError if it is not a media file."""
        container, self._probed = self._probed or self._open_container(), None
        with decoding_errors(self.name), container:
            yield container

    def _open_container(self) -> InputContainer:
        view = _View(self._opened(), self.name)
        self.num_containers += 1
        with decoding_errors(self.name):
            try:
                container = av.open(view, mode="r", options=OPEN_OPTIONS, metadata_errors="replace")
            except av.error.ArgumentError as error:  # the container is not in the list
                raise MediaError(
                    f"{self.name} is not a video, image or sound in a supported format. Convert it to mp4, PNG or wav."
                ) from error
            self.duration = None if container.duration is None else container.duration / av.time_base
            for stream in container.streams.video:
                if stream.codec_context is not None:
                    check_size(self.name, stream.codec_context.width, stream.codec_context.height)
            return container

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


def _available_formats() -> tuple[str, ...]:
    Image.init()
    return tuple(name for name in IMAGE_FORMATS if name in Image.OPEN)


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
def decoding_errors(name: str, read_as: str = "video or sound", remedy: str = CONVERT_VIDEO) -> Iterator[None]:
    """Raise MediaError, naming the file, for every error that a decoder raises inside the block.

    PyAV and Pillow raise errors of many types for damaged files (PermissionError, TypeError, struct.error, ...). Errors
    of this package and failed assertions pass through.
    """
    try:
        yield
    except (VideoLlamaError, AssertionError):
        raise
    except MemoryError as error:
        raise MediaError(f"{name} requires more memory than is available. Use a smaller file.") from error
    except Exception as error:
        raise MediaError(
            f"{name} cannot be read as {read_as} ({_reason(error)}). It may be damaged, truncated, or another kind of "
            f"file. {remedy}"
        ) from error


def check_size(name: str, width: int, height: int) -> None:
    """Raise MediaError if a picture exceeds MAX_SIDE or MAX_PIXELS."""
    if max(width, height) > MAX_SIDE or width * height > MAX_PIXELS:
        raise MediaError(
            f"{name} is {width} x {height} pixels. The limits are {MAX_SIDE:,} pixels per side and {MAX_PIXELS:,} "
            "pixels in total. Give a smaller one."
        )


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
    return any(not is_cover(stream) for stream in container.streams.video)


def is_cover(stream: VideoStream) -> bool:
    """Whether a video stream is the cover picture of a music file."""
    return bool(stream.disposition & Disposition.attached_pic)


def main_video_stream(container: InputContainer) -> VideoStream | None:
    """Return the video stream that is read, or None; cover pictures do not count."""
    streams = [stream for stream in container.streams.video if not is_cover(stream)]
    best = container.streams.best("video")
    return next(
        (stream for stream in streams if best is not None and stream.index == best.index), next(iter(streams), None)
    )


def is_folder(source: object) -> TypeGuard[str | os.PathLike[str]]:
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
    if not path.is_file():
        raise MediaError(f"{source} is not a regular file (a pipe, socket or device). Save the data to a file first.")
    return path


def _reason(error: Exception) -> str:
    text = getattr(error, "strerror", None) or str(error).partition("\n")[0]
    is_clear = text and isinstance(error, (av.error.FFmpegError, OSError, ValueError, SyntaxError))
    return text if is_clear else f"{type(error).__name__}: {text}".rstrip(": ")
