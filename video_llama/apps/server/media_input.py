"""A content part in, the bytes of its medium out: from a ``data:`` URL, an allowed host, or the media folder."""

from __future__ import annotations

import base64
import binascii
import os
import stat
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, unquote_to_bytes, urlsplit

from video_llama.apps.server.protocol import AudioPart, ImagePart, InputAudioPart, MediaPart, VideoPart
from video_llama.apps.server.settings import ServerSettings
from video_llama.apps.server.url_fetcher import UrlFetcher
from video_llama.errors import MediaError
from video_llama.processors.medium import MediaKind


@dataclass(frozen=True)
class MediaBytes:
    """A medium as it was sent. ``name`` is what messages and records call it by; ``kind`` is what it has to be."""

    name: str
    kind: MediaKind
    data: bytes


class MediaInput:
    """Gets the bytes that content parts stand for, within the server's limits."""

    def __init__(self, settings: ServerSettings) -> None:
        self._settings = settings
        self._fetcher = UrlFetcher(
            settings.allowed_hosts, settings.max_media_bytes, settings.fetch_seconds, settings.max_redirects
        )

    def get(self, part: MediaPart, place: str) -> MediaBytes:
        """The bytes of a part; ``place`` is where it stands in the request. May block for as long as a fetch may last.

        Raises MediaError, naming the place, for what cannot be had or is too large.
        """
        if isinstance(part, InputAudioPart):
            return self._checked(place, "audio", _base64(part.input_audio.data, f"{place}.input_audio.data"))
        kind, url = _kind_and_url(part)
        scheme = url.partition(":")[0].lower()
        if scheme == "data":
            return self._checked(place, kind, _data_url(url, place))
        if scheme == "file":
            return self._checked(url, kind, read_local(url, self._settings.media_root, self._settings.max_media_bytes))
        if scheme in ("http", "https"):
            return self._checked(url.partition("?")[0], kind, self._fetcher.fetch(url))
        raise MediaError(f"{place}: the URL is neither data:, http(s): nor file:. Send the file as a data: URL.")

    def _checked(self, name: str, kind: MediaKind, data: bytes) -> MediaBytes:
        limit = self._settings.max_media_bytes
        if len(data) > limit:
            raise MediaError(f"{name} has {len(data):,} bytes; the server takes {limit:,}. Send a smaller file.")
        return MediaBytes(name, kind, data)


def _kind_and_url(part: ImagePart | VideoPart | AudioPart) -> tuple[MediaKind, str]:
    if isinstance(part, ImagePart):
        return "image", part.image_url.url
    if isinstance(part, VideoPart):
        return "video", part.video_url.url
    return "audio", part.audio_url.url


def _data_url(url: str, place: str) -> bytes:
    """The content of ``data:TYPE;base64,...``. The type is not believed: the content says what it is."""
    head, comma, body = url.partition(",")
    if not comma:
        raise MediaError(f"{place}: the data: URL has no comma. Write data:video/mp4;base64,CONTENT.")
    if head.lower().endswith(";base64"):
        return _base64(body, place)
    return unquote_to_bytes(body)


def _base64(text: str, place: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise MediaError(f"{place} is no base64 ({error}). Encode the file's bytes, without line breaks.") from error


def read_local(url: str, root: Path | None, max_bytes: int) -> bytes:
    """The bytes of a ``file:`` URL's file. Raises MediaError unless it is a regular file below ``root``.

    What lies outside and what is not there give one answer, so that nobody can ask which files exist.
    """
    if root is None:
        raise MediaError(
            "This server reads no files of its own disk. Send the file as a data: URL, or start it with --media-root."
        )
    refusal = MediaError(f"{url} is no file below the server's media folder. Give file:///FOLDER/NAME of one that is.")
    parts = urlsplit(url)
    if parts.netloc not in ("", "localhost") or "\0" in unquote(parts.path):
        raise refusal
    try:
        base = root.resolve(strict=True)
        path = Path(unquote(parts.path)).resolve(strict=True)
    except (OSError, RuntimeError) as error:
        raise refusal from error
    if not path.is_relative_to(base):
        raise refusal
    return _read(path, base, max_bytes, refusal)


def _read(path: Path, base: Path, max_bytes: int, refusal: MediaError) -> bytes:
    """Read a resolved path, unless a link was put in its way since."""
    try:
        file = open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NOFOLLOW | os.O_NONBLOCK))  # noqa: SIM115
    except OSError as error:
        raise refusal from error
    with file:
        status = os.fstat(file.fileno())
        # The name under which the kernel opened it: a folder on the way may have become a link after resolve().
        opened = Path(os.readlink(f"/proc/self/fd/{file.fileno()}"))
        if not stat.S_ISREG(status.st_mode) or not opened.is_relative_to(base):
            raise refusal
        if status.st_size > max_bytes:
            raise MediaError(f"{path.name} has {status.st_size:,} bytes; the server takes {max_bytes:,}.")
        return file.read(max_bytes)
