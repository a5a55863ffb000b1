"""Fetching of media from URLs, with protection against server-side request forgery (SSRF).

Fetching is disabled unless hosts are allowed. Only http and https URLs of allowed hosts are fetched. All addresses of
the host must be public, and the connection is made to the address that was checked. Every redirect is checked in the
same way. Size and time are limited.
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

IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address
DEFAULT_PORTS = {"http": 80, "https": 443}
REDIRECT_STATUSES = (301, 302, 303, 307, 308)
TEMPORARY_STATUSES = (408, 425, 429)
"""Statuses below 500 after which the same request may succeed."""
FETCH_CHUNK_BYTES = 2**16
NAT64 = ipaddress.ip_network("64:ff9b::/96")
GLOBAL_UNICAST = ipaddress.ip_network("2000::/3")
"""The only IPv6 addresses of the public internet. Excludes, for example, the old site-local addresses fec0::/10."""
SPECIAL_PURPOSE = tuple(
    ipaddress.ip_network(network) for network in ("2001::/23", "2001:db8::/32", "3fff::/20", "192.88.99.0/24")
)
"""Protocol assignments, documentation and the 6to4 relays, which Python's ``is_global`` does not all exclude."""


def is_public(address: IPAddress) -> bool:
    """Return whether an address belongs to the public internet.

    An IPv6 address that embeds an IPv4 address (mapped, NAT64) is judged by the embedded address. The tunnels 6to4 and
    Teredo are not public: they are obsolete and can embed private addresses.
    """
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None or address in NAT64:
            return is_public(ipaddress.IPv4Address(int(address) & 0xFFFFFFFF))
        if address.sixtofour is not None or address.teredo is not None or address not in GLOBAL_UNICAST:
            return False
    if any(address in network for network in SPECIAL_PURPOSE):
        return False
    return address.is_global and not address.is_multicast and not address.is_reserved


def resolve_host(host: str, port: int) -> list[str]:
    """Return the addresses of a host from the system's resolver. Raises MediaError if it cannot be resolved."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise MediaError(f"The host {host} cannot be resolved ({error}). Check the URL.", is_temporary=True) from error
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


@dataclass(frozen=True)
class UrlFetcher:
    """Fetches media from the allowed ``hosts``.

    ``hosts`` are entries such as ``example.org``, ``*.example.org`` or ``example.org:8443``; ``*`` is any host at the
    default port. ``resolve`` returns the addresses of a host and port, and ``is_allowed`` whether a connection to an
    address is allowed. ``program``, ``advice`` and ``permission`` are parts of the error messages.
    """

    hosts: Sequence[str]
    max_bytes: int
    max_seconds: float
    max_redirects: int
    resolve: Callable[[str, int], list[str]] = resolve_host
    is_allowed: Callable[[IPAddress], bool] = is_public
    program: str = "This server"
    advice: str = "Send the file as a data: URL"
    permission: str = "start the server with --allow-host HOST"

    def fetch(self, url: str) -> bytes:
        """Return the content of a URL. Raises MediaError if fetching it is not allowed or fails."""
        if not self.hosts:
            raise MediaError(f"{self.program} does not fetch media from URLs. {self.advice}, or {self.permission}.")
        deadline = time.monotonic() + self.max_seconds
        for _ in range(self.max_redirects + 1):
            target = self._check(url)
            body, location = self._get(target, deadline)
            if location is None:
                return body
            url = urljoin(url, location)
        raise MediaError(f"The URL leads to more than {self.max_redirects} redirects. Give the final URL.")

    def _check(self, url: str) -> SplitResult:
        """Return the parts of a URL. Raises MediaError unless its scheme and host are allowed."""
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError as error:
            raise MediaError(f"The URL is invalid ({error}). Give http(s)://HOST/PATH.") from error
        host = (parts.hostname or "").rstrip(".")
        if parts.scheme not in DEFAULT_PORTS or not host or parts.username is not None:
            raise MediaError("The URL cannot be fetched. Give http(s)://HOST/PATH, without a user name.")
        is_default_port = port in (None, DEFAULT_PORTS[parts.scheme])
        if not any(_matches(host, port, is_default_port, pattern.lower()) for pattern in self.hosts):
            raise MediaError(f"{self.program} does not fetch media from {host}. {self.advice}, or {self.permission}.")
        return parts

    def _get(self, parts: SplitResult, deadline: float) -> tuple[bytes, str | None]:
        """Return the body and None, or empty bytes and the target of a redirect."""
        host = (parts.hostname or "").rstrip(".")
        port = parts.port or DEFAULT_PORTS[parts.scheme]
        address = self._address(host, port)
        connection = _PinnedConnection(parts.scheme, host, port, address, self._seconds_left(deadline, host))
        path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        # The timeout of a socket restarts with every byte received; the watchdog limits the total time.
        watchdog = threading.Timer(self._seconds_left(deadline, host), connection.abort)
        watchdog.start()
        try:
            connection.request("GET", path, headers={"User-Agent": "video-llama", "Accept-Encoding": "identity"})
            response = connection.getresponse()
            if response.status in REDIRECT_STATUSES:
                return b"", response.headers.get("Location", "")
            if response.status != 200:
                raise MediaError(
                    f"{host} returned status {response.status} for the URL. Check the URL.",
                    is_temporary=response.status in TEMPORARY_STATUSES or response.status >= 500,
                )
            return self._body(response, deadline, host), None
        except ssl.SSLCertVerificationError as error:
            raise MediaError(
                f"The certificate of {host} is not trusted ({error.verify_message}). {self.advice}, or start the "
                "program with the environment variable SSL_CERT_FILE set to a file of trusted certificates."
            ) from error
        except (OSError, http.client.HTTPException, ValueError) as error:
            self._seconds_left(deadline, host)  # raises the timeout error if the watchdog closed the connection
            reason = error or type(error).__name__
            message = f"The URL could not be fetched from {host} ({reason}). Check the URL. {self.advice}."
            raise MediaError(message, is_temporary=not isinstance(error, ValueError)) from error
        finally:
            watchdog.cancel()
            connection.end()

    def _address(self, host: str, port: int) -> str:
        """Return the address to connect to. All addresses of the host must be allowed, as their order is arbitrary."""
        addresses = self.resolve(host, port)
        if not all(self.is_allowed(ipaddress.ip_address(address.partition("%")[0])) for address in addresses):
            raise MediaError(f"{host} has an address that is not public. {self.advice}.")
        return addresses[0]

    def _body(self, response: http.client.HTTPResponse, deadline: float, host: str) -> bytes:
        body = bytearray()
        while chunk := response.read1(FETCH_CHUNK_BYTES):
            body += chunk
            if len(body) > self.max_bytes:
                raise MediaError(f"The file at the URL is larger than {self.max_bytes:,} bytes. Give a smaller one.")
        self._seconds_left(deadline, host)
        if response.length:
            raise http.client.IncompleteRead(bytes(body), response.length)
        return bytes(body)

    def _seconds_left(self, deadline: float, host: str) -> float:
        """Return the time until the deadline. Raises MediaError after it."""
        seconds = deadline - time.monotonic()
        if seconds <= 0:
            raise MediaError(f"Fetching the URL from {host} took too long. {self.advice}.", is_temporary=True)
        return seconds


class _PinnedConnection(http.client.HTTPConnection):
    """A connection to a fixed address. TLS checks the certificate for the host name."""

    def __init__(self, scheme: str, host: str, port: int, address: str, seconds: float) -> None:
        super().__init__(host, port, timeout=seconds)
        self.default_port = DEFAULT_PORTS[scheme]
        self._scheme, self._address = scheme, address
        self._raw_socket: socket.socket | None = None

    def connect(self) -> None:
        """Connect to the fixed address. TLS trusts the authorities of the system, or those of SSL_CERT_FILE."""
        self.sock = socket.create_connection((self._address, self.port), self.timeout)
        self._raw_socket = self.sock.dup()  # a socket wrapped by TLS cannot be shut down during the handshake
        if self._scheme == "https":
            self.sock = ssl.create_default_context().wrap_socket(self.sock, server_hostname=self.host)

    def abort(self) -> None:
        """Shut down the socket from another thread, which ends all pending operations."""
        if self._raw_socket is not None:
            with suppress(OSError):
                self._raw_socket.shutdown(socket.SHUT_RDWR)

    def end(self) -> None:
        """Close the connection and the duplicate socket of ``abort``.

        ``close`` does not close the duplicate because http.client also calls it before the body is read.
        """
        self.close()
        if self._raw_socket is not None:
            self._raw_socket.close()


def _matches(host: str, port: int | None, is_default_port: bool, pattern: str) -> bool:
    """Return whether a host matches a pattern: ``name``, ``*.name`` for its subdomains, or ``*``, with an optional
    port."""
    name, _, allowed_port = pattern.partition(":")
    if allowed_port != str(port) if allowed_port else not is_default_port:
        return False
    if name == "*":
        return True
    host = host.lower()
    return host.endswith(name[1:]) and host != name[2:] if name.startswith("*.") else host == name
