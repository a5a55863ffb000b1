"""Bytes of the media in a request: from base64, ``data:`` URLs, allowed hosts, or files below the media folder."""

from __future__ import annotations

import binascii
import os
import stat
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

import numpy as np

from video_llama.apps.server.protocol import AudioPart, ImagePart, InputAudioPart, MediaPart, VideoPart
from video_llama.apps.server.settings import ServerSettings
from video_llama.apps.server.url_fetcher import UrlFetcher
from video_llama.errors import MediaError
from video_llama.processors.media_file import MediaKind

MAX_SCHEME = 16
"""Number of characters that are searched for a URL's scheme, or for ``;base64``."""
BLOCK_BYTES = 2**20
"""Bytes that are decoded at once, a multiple of four. Between two blocks, other threads can run."""
WHITESPACE = b" \t\r\n\v\f"
BASE64_ALPHABET = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
MAX_PADDING = 2
INVALID_BASE64, ENCODE_IT = "The content is not valid base64", "Encode the bytes of the file."
HEX_DIGITS = np.array([int(chr(c), 16) if chr(c) in "0123456789abcdefABCDEF" else -1 for c in range(256)], np.int16)
"""Value of each byte as a hexadecimal digit, or -1."""


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

        Blocks while a URL is fetched. Raises MediaError, without the location, for content that is unavailable, not
        allowed or too large.
        """
        if isinstance(part, InputAudioPart):
            return self._checked(location, "audio", decode_base64(part.input_audio.data.encode()))
        kind, url = _kind_and_url(part)
        scheme = url[:MAX_SCHEME].partition(":")[0].lower()
        if scheme == "data":
            return self._checked(location, kind, decode_data_url(url))
        if len(url) > self._settings.max_url_characters:
            limit = self._settings.max_url_characters
            raise MediaError(f"The URL has {len(url):,} characters; the limit is {limit:,}. Send a data: URL.")
        if scheme == "file":
            data = read_local_file(url, self._settings.media_root, self._settings.max_media_bytes)
            return self._checked(url, kind, data)
        if scheme in ("http", "https"):
            return self._checked(url.partition("?")[0], kind, self._fetcher.fetch(url))
        raise MediaError("The URL must start with data:, http:, https: or file:. Send the file as a data: URL.")

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


def decode_data_url(url: str) -> bytes:
    """Return the content of a ``data:`` URL. Its media type is ignored: the kind is detected from the content."""
    head, comma, body = url.partition(",")
    if not comma:
        raise MediaError("The data: URL has no comma. Write data:video/mp4;base64,CONTENT.")
    data = unquote_bytes(body.encode())
    return decode_base64(data) if head[-MAX_SCHEME:].rstrip().lower().endswith(";base64") else data


def decode_base64(text: bytes) -> bytes:
    """Return the bytes of a text in base64, which may have line breaks. Raises MediaError if it is not valid."""
    text = text.translate(None, WHITESPACE)
    if len(text) % 4:
        raise MediaError(f"{INVALID_BASE64} (its length is not a multiple of 4). {ENCODE_IT}")
    blocks = []
    for start in range(0, len(text), BLOCK_BYTES):
        block = text[start : start + BLOCK_BYTES]
        is_last = start + BLOCK_BYTES >= len(text)
        content = block.rstrip(b"=") if is_last else block
        if invalid := content.translate(None, BASE64_ALPHABET):
            raise MediaError(f"{INVALID_BASE64} (it contains {chr(invalid[0])!r}). {ENCODE_IT}")
        if len(block) - len(content) > MAX_PADDING:
            raise MediaError(f"{INVALID_BASE64} (it has too much padding). {ENCODE_IT}")
        blocks.append(binascii.a2b_base64(block))
    return b"".join(blocks)


def unquote_bytes(text: bytes) -> bytes:
    """Return bytes with each ``%XX`` replaced by its value, as ``urllib.parse.unquote_to_bytes``, which takes minutes
    for the largest URLs."""
    if b"%" not in text:
        return text
    blocks, start = [], 0
    while start < len(text):
        end = start + BLOCK_BYTES
        cut = text.rfind(b"%", max(start, end - 2), end)  # the last escape of a block must be whole
        end = cut if cut > start and end < len(text) else end
        blocks.append(_unquote_block(text[start:end]))
        start = end
    return b"".join(blocks)


def _unquote_block(block: bytes) -> bytes:
    values = np.frombuffer(block, np.uint8)
    digits = HEX_DIGITS[values]
    escapes = np.flatnonzero(values[:-2] == ord("%"))
    escapes = escapes[(digits[escapes + 1] >= 0) & (digits[escapes + 2] >= 0)]
    unquoted, kept = values.copy(), np.ones(len(values), bool)
    unquoted[escapes] = 16 * digits[escapes + 1] + digits[escapes + 2]
    kept[escapes + 1] = kept[escapes + 2] = False
    return unquoted[kept].tobytes()


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
