"""Host names of servers that listen on a loopback address: protection against DNS rebinding."""

from __future__ import annotations

import ipaddress
from collections.abc import Collection, Iterable
from urllib.parse import urlsplit

LOCAL_NAME = "localhost"


def is_loopback(host: str) -> bool:
    """Return whether a host name or address refers to this machine only."""
    name = host.strip("[]").rstrip(".").lower()
    if name == LOCAL_NAME or name.endswith(f".{LOCAL_NAME}"):
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def accepts_headers(headers: Iterable[tuple[bytes, bytes]], names: Collection[str] = ()) -> bool:
    """Return whether the headers of an ASGI request have no Host header, or one that ``accepts_host``."""
    host = dict(headers).get(b"host", b"").decode("latin-1")
    return not host or accepts_host(host, names)


def accepts_host(header: str, names: Collection[str]) -> bool:
    """Return whether a Host header names this machine, or one of ``names``. The port is ignored.

    A page of another site can have its host name resolve to 127.0.0.1 (DNS rebinding) and then read the answers of a
    server that only listens there. Its requests have its own name in the Host header.
    """
    try:
        host = (urlsplit(f"//{header}").hostname or "").rstrip(".")
    except ValueError:
        return False
    return is_loopback(host) or host in {name.lower() for name in names}
