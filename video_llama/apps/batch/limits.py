"""Limits of reading the media of a batch run."""

from __future__ import annotations

from pydantic import Field

from video_llama.apps.media.limits import MEBIBYTE, MediaLimits


class BatchLimits(MediaLimits):
    """Set them with ``video-llama batch --set KEY=VALUE``."""

    max_media_bytes: int = Field(default=512 * MEBIBYTE, ge=1)
    """Maximum size of one media file, which is read as a whole."""
    allowed_hosts: tuple[str, ...] = ("*",)
    """Hosts from which media may be fetched: ``example.org``, ``*.example.org``, ``example.org:8443``; ``*`` is any
    host at the default port. Addresses that are not public are always refused."""
    fetch_seconds: float = Field(default=60.0, gt=0)
    """Time limit for fetching one media file, including redirects."""
    max_redirects: int = Field(default=3, ge=0)
    """Maximum number of redirects to follow. The host of each redirect must be allowed too."""
    retries: int = Field(default=2, ge=0)
    """Number of further attempts after a failed download or a crashed decoder."""
    object_store_bytes: int | None = Field(default=None, ge=80 * MEBIBYTE)
    """Size of Ray's object store, if ``--engine ray`` starts Ray on this machine. None: Ray's own choice."""
