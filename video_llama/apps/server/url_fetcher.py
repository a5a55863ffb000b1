"""Fetching a medium by its URL without becoming somebody's way into the network behind the server (SSRF).

Off unless hosts are allowed. Then: http and https only, the hosts of the list only, every address of the host public,
the connection made to the very address that was checked, each redirect checked anew, size and time bounded.
"""

from __future__ import annotations

import http.client
import ipaddress
import socket
import ssl
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from urllib.parse import SplitResult, urljoin, urlsplit

from video_llama.errors import MediaError

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
DEFAULT_PORTS = {"http": 80, "https": 443}
REDIRECTS = (301, 302, 303, 307, 308)
CHUNK_BYTES = 2**16
NAT64 = ipaddress.ip_network("64:ff9b::/96")


def is_public(address: Address) -> bool:
    """Whether an address belongs to the open internet. One that wraps an IPv4 address is what that one is; the
    tunnels 6to4 and Teredo, where nobody keeps media, are not."""
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None or address in NAT64:
            return is_public(ipaddress.IPv4Address(int(address) & 0xFFFFFFFF))
        if address.sixtofour is not None or address.teredo is not None:
            return False
    return address.is_global and not address.is_multicast and not address.is_reserved


def resolve(host: str, port: int) -> list[str]:
    """The host's addresses, from the system's resolver. Raises MediaError where it has none."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise MediaError(f"The host {host} has no address ({error}). Check the URL.") from error
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


@dataclass(frozen=True)
class UrlFetcher:
    """Fetches media from ``hosts``. ``resolve`` and ``is_allowed`` decide where a connection may go."""

    hosts: Sequence[str]
    max_bytes: int
    max_seconds: float
    max_redirects: int
    resolve: Callable[[str, int], list[str]] = resolve
    is_allowed: Callable[[Address], bool] = is_public

    def fetch(self, url: str) -> bytes:
        """What stands at a URL. Raises MediaError where it may not be fetched, or cannot."""
        if not self.hosts:
            raise MediaError(
                "This server does not fetch media from URLs. Send the file as a data: URL, or start the server with "
                "--allow-host HOST."
            )
        deadline = time.monotonic() + self.max_seconds
        for _ in range(self.max_redirects + 1):
            target = self._check(url)
            body, location = self._get(target, deadline)
            if location is None:
                return body
            url = urljoin(url, location)
        raise MediaError(f"More than {self.max_redirects} redirects lead on from the URL. Give the final one.")

    def _check(self, url: str) -> SplitResult:
        """The URL's parts, if its scheme and host are allowed."""
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError as error:
            raise MediaError(f"The URL cannot be read ({error}). Give http(s)://HOST/PATH.") from error
        host = (parts.hostname or "").rstrip(".")
        if parts.scheme not in DEFAULT_PORTS or not host or parts.username is not None:
            raise MediaError("The URL is none that can be fetched. Give http(s)://HOST/PATH, without a user name.")
        default = port in (None, DEFAULT_PORTS[parts.scheme])
        if not any(_matches(host, port, default, pattern.lower()) for pattern in self.hosts):
            raise MediaError(f"The server does not fetch from {host}. Send the file as a data: URL, or allow the host.")
        return parts

    def _get(self, parts: SplitResult, deadline: float) -> tuple[bytes, str | None]:
        """The body, or where a redirect leads."""
        host = (parts.hostname or "").rstrip(".")
        port = parts.port or DEFAULT_PORTS[parts.scheme]
        connection = _PinnedConnection(parts.scheme, host, port, self._address(host, port), _left(deadline, host))
        path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        # A socket's timeout begins anew with every byte; this does not.
        watchdog = threading.Timer(_left(deadline, host), connection.abort)
        watchdog.start()
        try:
            connection.request("GET", path, headers={"User-Agent": "video-llama", "Accept-Encoding": "identity"})
            response = connection.getresponse()
            if response.status in REDIRECTS:
                return b"", response.headers.get("Location", "")
            if response.status != 200:
                raise MediaError(f"{host} answered {response.status} for the URL. Check that it can be fetched.")
            return self._body(response, deadline, host), None
        except ssl.SSLCertVerificationError as error:
            raise MediaError(
                f"The certificate of {host} is not trusted ({error.verify_message}). Start the server with "
                "SSL_CERT_FILE naming the file of its authority, or send the file as a data: URL."
            ) from error
        except (OSError, http.client.HTTPException, ValueError) as error:
            _left(deadline, host)  # a connection that the watchdog ended
            raise MediaError(f"The URL could not be fetched from {host} ({error or type(error).__name__}).") from error
        finally:
            watchdog.cancel()
            connection.end()

    def _address(self, host: str, port: int) -> str:
        """The address to connect to. All that the host has must be public: which comes first is its owner's choice."""
        addresses = self.resolve(host, port)
        if not all(self.is_allowed(ipaddress.ip_address(address.partition("%")[0])) for address in addresses):
            raise MediaError(f"{host} is at an address that is not public. Send the file as a data: URL.")
        return addresses[0]

    def _body(self, response: http.client.HTTPResponse, deadline: float, host: str) -> bytes:
        body = bytearray()
        while chunk := response.read1(CHUNK_BYTES):
            body += chunk
            if len(body) > self.max_bytes:
                raise MediaError(f"The file at the URL is larger than {self.max_bytes:,} bytes. Give a smaller one.")
        _left(deadline, host)
        if response.length:
            raise http.client.IncompleteRead(bytes(body), response.length)
        return bytes(body)


class _PinnedConnection(http.client.HTTPConnection):
    """A connection to one address, whatever the host's name says by then; TLS checks the certificate for the name."""

    def __init__(self, scheme: str, host: str, port: int, address: str, seconds: float) -> None:
        super().__init__(host, port, timeout=seconds)
        self.default_port = DEFAULT_PORTS[scheme]
        self._scheme, self._address = scheme, address
        self._second: socket.socket | None = None

    def connect(self) -> None:
        """Connect to the address that was checked. TLS trusts the system's authorities, or those of SSL_CERT_FILE."""
        self.sock = socket.create_connection((self._address, self.port), self.timeout)
        self._second = self.sock.dup()  # what TLS wraps can no longer be shut down, not even during the handshake
        if self._scheme == "https":
            self.sock = ssl.create_default_context().wrap_socket(self.sock, server_hostname=self.host)

    def abort(self) -> None:
        """End whatever waits for this connection; from another thread."""
        if self._second is not None:
            with suppress(OSError):
                self._second.shutdown(socket.SHUT_RDWR)

    def end(self) -> None:
        """Close it, and the handle of ``abort``; http.client calls ``close`` when the body is still to come."""
        self.close()
        if self._second is not None:
            self._second.close()


def _matches(host: str, port: int | None, is_default_port: bool, pattern: str) -> bool:
    """Whether one entry of the list allows a host: a name, ``*.name`` for what lies below it, either with a port."""
    name, _, allowed_port = pattern.partition(":")
    if allowed_port != str(port) if allowed_port else not is_default_port:
        return False
    host = host.lower()
    return host.endswith(name[1:]) and host != name[2:] if name.startswith("*.") else host == name


def _left(deadline: float, host: str) -> float:
    seconds = deadline - time.monotonic()
    if seconds <= 0:
        raise MediaError(f"Fetching the URL from {host} took too long. Send the file as a data: URL.")
    return seconds
