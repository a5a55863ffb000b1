"""Settings of the server: concurrency, size and time limits, and access."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field, SecretStr

from video_llama.apps.media.limits import MEBIBYTE, MediaLimits


class ServerSettings(MediaLimits):
    """The limits of one server, in bytes, seconds or counts. Set them with ``video-llama serve --set KEY=VALUE``."""

    max_rows: int = Field(default=16, ge=1)
    """Maximum number of answers generated together in one batch."""
    max_queue: int = Field(default=64, ge=0)
    """Maximum number of answers waiting for a place in the batch. Further requests fail with status 429."""
    max_choices: int = Field(default=8, ge=1)
    """Maximum number of answers to one request (``n``)."""
    request_seconds: float = Field(default=120.0, gt=0)
    """Time limit of a request, from its arrival to the end of its answer. Slower requests fail with status 504."""
    shutdown_seconds: int = Field(default=30, ge=0)
    """Time that running answers have to finish after SIGTERM or SIGINT."""
    max_body_bytes: int = Field(default=32 * MEBIBYTE, ge=1)
    """Maximum size of a request body, including its ``data:`` URLs."""
    max_total_body_bytes: int = Field(default=512 * MEBIBYTE, ge=1)
    """Maximum size of the bodies of all requests together. Further requests fail with status 503."""
    max_json_items: int = Field(default=20_000, ge=1)
    """Maximum number of keys and list items in a request body."""
    max_json_depth: int = Field(default=32, ge=1)
    """Maximum nesting depth of a request body."""
    max_url_characters: int = Field(default=4096, ge=1)
    """Maximum length of a ``file:``, ``http:`` or ``https:`` URL."""
    max_connections: int = Field(default=512, ge=1)
    """Maximum number of connections. The number of file descriptors of the process (``ulimit -n``) can lower it."""
    max_connections_per_address: int = Field(default=256, ge=1)
    """Maximum number of connections of one client address. Set it to max_connections behind a reverse proxy."""
    header_seconds: float = Field(default=10.0, gt=0)
    """Time limit for receiving the headers of a request. Slower connections are closed."""
    body_seconds: float = Field(default=60.0, gt=0)
    """Time limit for receiving the body of a request. Slower connections are closed."""
    max_text_characters: int = Field(default=100_000, ge=1)
    """Maximum number of characters in all messages of a request."""
    max_beams: int = Field(default=8, ge=1)
    """Maximum number of beams of one answer (``num_beams``)."""
    max_new_tokens: int = Field(default=1024, ge=1)
    """Maximum value of ``max_tokens`` in a request."""
    max_media: int = Field(default=8, ge=0)
    """Maximum number of media in one request."""
    max_windows: int = Field(default=64, ge=1)
    """Maximum number of windows of one request with ``window``."""
    max_media_bytes: int = Field(default=32 * MEBIBYTE, ge=1)
    """Maximum size of one media file."""
    cache_bytes: int | None = Field(default=None, ge=1)
    """Maximum size of all caches: keys and values of running answers and of kept prompts, and encoded media. An answer
    that does not fit waits. None is half of the memory that is free on the model's device when the server starts."""
    media_cache_entries: int = Field(default=64, ge=0)
    """Number of encoded media kept for later requests with the same content. 0 disables this cache."""
    prefix_cache_tokens: int = Field(default=4096, ge=0)
    """Number of prompt tokens whose keys and values are kept for prompts with equal prefixes. 0 disables this cache."""
    prefill_chunk_tokens: int = Field(default=512, ge=1)
    """Maximum number of prompt tokens processed at once. While answers run, fewer are chosen; see max_pause."""
    max_pause: float = Field(default=1.0, ge=0)
    """Time for encoding media and processing prompts between two tokens of the running answers, as a multiple of the
    duration of a decoding step, or min_pause if that is longer. At least one step of such work is done. inf does all of
    it at once."""
    min_pause: float = Field(default=0.05, ge=0)
    """Least value of that time, in seconds, so that small models are not slowed down by their short decoding steps."""
    allowed_hosts: tuple[str, ...] = ()
    """Hosts from which media may be fetched: ``example.org``, ``*.example.org``, ``example.org:8443``."""
    fetch_seconds: float = Field(default=15.0, gt=0)
    """Time limit for fetching one media file, including redirects."""
    max_redirects: int = Field(default=3, ge=0)
    """Maximum number of redirects to follow. The host of each redirect must be allowed too."""
    media_root: Path | None = None
    """Folder whose files may be given as ``file:`` URLs. None refuses all ``file:`` URLs."""
    server_names: tuple[str, ...] = ()
    """Host names that requests may have in their Host header, besides localhost. Checked only if the server listens on
    a loopback address, for example behind a reverse proxy on the same machine."""
    api_key: SecretStr | None = None
    """Key that clients must send as a bearer token. None disables authentication."""
