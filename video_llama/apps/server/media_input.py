"""Bytes of the media in a request: from base64, ``data:`` URLs, allowed hosts, or files below the media folder."""

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
from video_llama.processors.media_file import MediaKind


@dataclass(frozen=True)
class MediaBytes:
    """The content of one media part. ``name`` identifies it in messages and records; ``kind`` is the expected kind."""

    name: str
    kind: MediaKind
    data: bytes


class MediaInput:
    """Reads the content of media parts within the limits of the server."""

    def __init__(self, settings: ServerSettings) -> None:
        self._settings = settings
        self._fetcher = UrlFetcher(
            settings.allowed_hosts, settings.max_media_bytes, settings.fetch_seconds, settings.max_redirects
        )

    def get(self, part: MediaPart, location: str) -> MediaBytes:
        """Return the content of a part; ``location`` is its place in the request, such as ``messages[0].content[1]``.

        Blocks while a URL is fetched. Raises MediaError for content that is unavailable, not allowed or too large.
        """
        if isinstance(part, InputAudioPart):
            data = _decode_base64(part.input_audio.data, f"{location}.input_audio.data")
            return self._checked(location, "audio", data)
        kind, url = _kind_and_url(part)
        scheme = url.partition(":")[0].lower()
        if scheme == "data":
            return self._checked(location, kind, _decode_data_url(url, location))
        if scheme == "file":
            data = read_local_file(url, self._settings.media_root, self._settings.max_media_bytes)
            return self._checked(url, kind, data)
        if scheme in ("http", "https"):
            return self._checked(url.partition("?")[0], kind, self._fetcher.fetch(url))
        raise MediaError(
            f"{location}: the URL must start with data:, http:, https: or file:. Send the file as a data: URL."
        )

    def _checked(self, name: str, kind: MediaKind, data: bytes) -> MediaBytes:
        limit = self._settings.max_media_bytes
        if len(data) > limit:
            raise MediaError(f"{name} has {len(data):,} bytes; the limit is {limit:,}. Send a smaller file.")
        return MediaBytes(name, kind, data)


def _kind_and_url(part: ImagePart | VideoPart | AudioPart) -> tuple[MediaKind, str]:
    if isinstance(part, ImagePart):
        return "image", part.image_url.url
    if isinstance(part, VideoPart):
        return "video", part.video_url.url
    return "audio", part.audio_url.url


def _decode_data_url(url: str, location: str) -> bytes:
    """Return the content of a ``data:`` URL. Its media type is ignored: the kind is detected from the content."""
    head, comma, body = url.partition(",")
    if not comma:
        raise MediaError(f"{location}: the data: URL has no comma. Write data:video/mp4;base64,CONTENT.")
    if head.lower().endswith(";base64"):
        return _decode_base64(body, location)
    return unquote_to_bytes(body)


def _decode_base64(text: str, location: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        message = f"{location} is not valid base64 ({error}). Encode the bytes of the file, without line breaks."
        raise MediaError(message) from error


def read_local_file(url: str, root: Path | None, max_bytes: int) -> bytes:
    """Return the content of the regular file that a ``file:`` URL refers to.

    Raises MediaError unless the file is below ``root`` after resolving ``..`` and symbolic links. The error is the same
    for files outside ``root`` and for missing files, so that clients cannot find out which files exist.
    """
    if root is None:
        raise MediaError(
            "This server does not read local files. Send the file as a data: URL, or start the server with "
            "--media-root FOLDER."
        )
    refusal = MediaError(
        f"{url} is not a file below the server's media folder. Give file:///FOLDER/NAME of such a file."
    )
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
    return _read_resolved(path, base, max_bytes, refusal)


def _read_resolved(path: Path, base: Path, max_bytes: int, refusal: MediaError) -> bytes:
    """Read a resolved path. Raises ``refusal`` if it was replaced by a link since it was resolved."""
    try:
        file = open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NOFOLLOW | os.O_NONBLOCK))  # noqa: SIM115
    except OSError as error:
        raise refusal from error
    with file:
        status = os.fstat(file.fileno())
        # The path that the kernel opened: a folder of the path may have been replaced by a link after resolve().
        opened = Path(os.readlink(f"/proc/self/fd/{file.fileno()}"))
        if not stat.S_ISREG(status.st_mode) or not opened.is_relative_to(base):
            raise refusal
        if status.st_size > max_bytes:
            raise MediaError(
                f"{path.name} has {status.st_size:,} bytes; the limit is {max_bytes:,}. Use a smaller file."
            )
        return file.read(max_bytes)
