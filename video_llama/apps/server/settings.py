"""What the server allows: how much at once, how large, how long, and from where."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field, SecretStr

from video_llama.apps.media.limits import MEBIBYTE, MediaLimits


class ServerSettings(MediaLimits):
    """The limits of one server. Bytes, seconds and counts; every one can be set with ``video-llama serve --set``."""

    max_rows: int = Field(default=16, ge=1)
    """Answers that are decoded together."""
    max_queue: int = Field(default=64, ge=0)
    """Answers that may wait for a place among them; more are refused with 429."""
    max_choices: int = Field(default=8, ge=1)
    """Answers to one request (``n``)."""
    request_seconds: float = Field(default=120.0, gt=0)
    """From a request's arrival to the end of its answer; then it is given up with 504."""
    shutdown_seconds: int = Field(default=30, ge=0)
    """How long running answers may go on when the server is told to stop."""
    max_body_bytes: int = Field(default=32 * MEBIBYTE, ge=1)
    """Of a request, its ``data:`` URLs included."""
    max_text_characters: int = Field(default=100_000, ge=1)
    """Of all messages of a request together."""
    max_beams: int = Field(default=8, ge=1)
    """Beams of one answer (``num_beams``)."""
    max_new_tokens: int = Field(default=1024, ge=1)
    """The most that ``max_tokens`` may ask for."""
    max_media: int = Field(default=8, ge=0)
    """Media in one request."""
    max_media_bytes: int = Field(default=32 * MEBIBYTE, ge=1)
    """Of one medium."""
    media_cache_entries: int = Field(default=64, ge=0)
    """Encoded media that are kept for the next request about the same content."""
    prefix_cache_tokens: int = Field(default=4096, ge=0)
    """Prompt tokens whose keys and values are kept for the next prompt that begins alike. 0 keeps none."""
    allowed_hosts: tuple[str, ...] = ()
    """Hosts that media may be fetched from: ``example.org``, ``*.example.org``, ``example.org:8443``."""
    fetch_seconds: float = Field(default=15.0, gt=0)
    """For fetching one medium, redirects included."""
    max_redirects: int = Field(default=3, ge=0)
    """Redirects that are followed; each one's host is checked anew."""
    media_root: Path | None = None
    """The folder that ``file:`` URLs may name files in. None refuses them all."""
    api_key: SecretStr | None = None
    """What a client must send as a bearer key. None lets everybody in."""
