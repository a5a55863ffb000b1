"""A content part in, the bytes of its medium out: from a ``data:`` URL, an allowed host, or the media folder."""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass
from urllib.parse import unquote_to_bytes

from video_llama.apps.server.addresses import Fetcher
from video_llama.apps.server.local_files import read_local
from video_llama.apps.server.protocol import AudioPart, ImagePart, InputAudioPart, MediaPart, VideoPart
from video_llama.apps.server.settings import ServerSettings
from video_llama.errors import MediaError
from video_llama.processors.medium import MediaKind


@dataclass(frozen=True)
class MediaBytes:
    """A medium as it was sent. ``name`` is what messages and records call it by; ``kind`` is what it has to be."""

    name: str
    kind: MediaKind
    data: bytes


class MediaFetcher:
    """Gets the bytes that content parts stand for, within the server's limits."""

    def __init__(self, settings: ServerSettings) -> None:
        self._settings = settings
        self._fetcher = Fetcher(
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
