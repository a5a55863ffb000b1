"""Connections to the server: their number, the time they may take for a request, and closed or half-closed clients.

A connection that has sent only a part of a request is in the way of others. Where the limit of connections is reached,
the one that has waited longest for the rest of its request is closed, so that a new client is always served.
"""

from __future__ import annotations

import asyncio
import ipaddress
import json
import resource
import socket
from contextlib import suppress
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import STATUS_PHRASES, H11Protocol

from video_llama.apps.server.errors import ApiError

RESERVED_FILES = 64
"""File descriptors that are kept free for media processes, fetched URLs and the loading of modules."""
MIN_CONNECTIONS = 8
DRAIN_SECONDS = 5.0
"""Time that a client may continue to send a request after its answer, such as a refusal, was sent."""
PROBE_SECONDS = 0.25
"""Interval in which a half-closed connection is examined."""
READ_BYTES = 2**14
"""Bytes received at once. Between two parts, other connections are served."""
MAX_SMALL_CHUNKS, SMALL_CHUNK_BYTES = 10_000, 64
"""Number of chunks of a body from which their mean size must be at least this number of bytes."""
TCP_CLOSED = 7
"""State of a connection in Linux's TCP_INFO that the client has reset."""
IPV6_NETWORK_BITS = 64
"""An IPv6 client usually controls a network of this size, so its addresses are counted together."""
COMMENT = b": \n\n"
"""A comment in a stream of server-sent events, which clients ignore."""


class ConnectionStage(IntEnum):
    """What a connection is waiting for. Earlier stages are closed first if there are too many connections."""

    IDLE = 0  # between two requests
    HEADERS = 1
    BODY = 2
    DRAINING = 3  # the answer has been sent before the end of the request
    RESPONSE = 4


@dataclass(frozen=True)
class ConnectionLimits:
    """Maximum number of connections, in all and of one address, and seconds for each stage of a request."""

    max_connections: int
    max_per_address: int
    header_seconds: float
    body_seconds: float
    response_seconds: float

    def seconds(self, stage: ConnectionStage) -> float | None:
        """Return the time limit of a stage. An idle connection is closed by uvicorn."""
        return {
            ConnectionStage.IDLE: None,
            ConnectionStage.HEADERS: self.header_seconds,
            ConnectionStage.BODY: self.body_seconds,
            ConnectionStage.DRAINING: DRAIN_SECONDS,
            ConnectionStage.RESPONSE: self.response_seconds,
        }[stage]


def usable_connections(max_connections: int) -> int:
    """Return the number of connections for which this process has file descriptors, at most ``max_connections``."""
    soft_limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    num_open = sum(1 for _ in Path("/proc/self/fd").iterdir())
    return max(MIN_CONNECTIONS, min(max_connections, soft_limit - num_open - RESERVED_FILES))


def client_group(host: str) -> str:
    """Return the key under which the connections of a client are counted: its address, or its IPv6 network."""
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return host
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is None:
        return str(ipaddress.ip_network((address, IPV6_NETWORK_BITS), strict=False))
    return str(address)


class Connections:
    """The open connections of a server, by client."""

    def __init__(self, limits: ConnectionLimits) -> None:
        self.limits = limits
        self._groups: dict[str, set[LimitedProtocol]] = {}

    def __len__(self) -> int:
        return sum(len(group) for group in self._groups.values())

    def admit(self, connection: LimitedProtocol, group: str) -> bool:
        """Add a connection, closing another one if there are too many. Return False if none can be closed."""
        own = self._groups.setdefault(group, set())
        if len(own) >= self.limits.max_per_address:
            is_admitted = _close_oldest(own)
        elif len(self) >= self.limits.max_connections:
            groups = sorted(self._groups.values(), key=len, reverse=True)
            is_admitted = any(_close_oldest(others) for others in groups)
        else:
            is_admitted = True
        if is_admitted:
            own.add(connection)
        elif not own:
            del self._groups[group]
        return is_admitted

    def remove(self, connection: LimitedProtocol, group: str) -> None:
        """Remove a connection. Has no effect on one that was not admitted."""
        own = self._groups.get(group, set())
        own.discard(connection)
        if not own:
            self._groups.pop(group, None)


def _close_oldest(group: set[LimitedProtocol]) -> bool:
    """Close and remove the connection that has waited longest for a request. Return False if there is none."""
    waiting = [connection for connection in group if connection.stage < ConnectionStage.RESPONSE]
    if not waiting:
        return False
    oldest = min(waiting, key=lambda connection: (connection.stage, connection.since))
    group.discard(oldest)
    oldest.expire()
    return True


class BoundedConnection(h11.Connection):
    """Refuses bodies in very small chunks: parsing them takes a thousand times longer than receiving them."""

    _num_chunks = _num_bytes = 0

    def next_event(self) -> Any:
        """Return the next event. Raises RemoteProtocolError if the chunks of a body are too many and too small."""
        event = super().next_event()
        if isinstance(event, h11.Request):
            self._num_chunks = self._num_bytes = 0
        elif isinstance(event, h11.Data):
            self._num_chunks += 1
            self._num_bytes += len(event.data)
            if self._num_chunks > MAX_SMALL_CHUNKS and self._num_bytes < self._num_chunks * SMALL_CHUNK_BYTES:
                raise h11.RemoteProtocolError("too many small chunks")
        return event


class LimitedProtocol(H11Protocol):
    """An HTTP/1.1 connection with time limits. A client that closes only its sending side still gets its answer."""

    def __init__(self, *args: Any, registry: Connections, **options: Any) -> None:
        super().__init__(*args, **options)
        self.conn = BoundedConnection(h11.SERVER)
        self.stage, self.since = ConnectionStage.HEADERS, self.loop.time()
        self._registry, self._group = registry, ""
        self._timer: asyncio.TimerHandle | None = None
        self._probe: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Admit the connection, or refuse it with status 503."""
        super().connection_made(transport)
        transport.max_size = READ_BYTES  # type: ignore[attr-defined]  # of asyncio's transports; others ignore it
        self._group = client_group(self.client[0] if self.client else "")
        if self._registry.admit(self, self._group):
            self._enter(ConnectionStage.HEADERS)
        else:
            self._close_with(ApiError(503, "The server has too many connections. Try again later."))

    def connection_lost(self, exc: Exception | None) -> None:
        """Release the place of the connection."""
        self._registry.remove(self, self._group)
        for timer in (self._timer, self._probe):
            if timer is not None:
                timer.cancel()
        super().connection_lost(exc)

    def handle_events(self) -> None:
        """Process the received bytes, and start the time limit of the next stage."""
        super().handle_events()
        self._update()

    def on_response_complete(self) -> None:
        """Start the time limit of the next request."""
        super().on_response_complete()
        self._update()

    def eof_received(self) -> bool | None:  # type: ignore[override]
        """Keep the connection if the client awaits an answer. A probe detects whether it has disconnected."""
        if self.cycle is None or self.cycle.response_complete or self.stage is not ConnectionStage.RESPONSE:
            return None
        self.cycle.keep_alive = False
        if self._probe is None:
            self._send_probe()
            self._probe = self.loop.call_later(PROBE_SECONDS, self._check_probe)
        return True

    def send_400_response(self, msg: str) -> None:
        """Refuse a request that is not HTTP."""
        self._close_with(ApiError(400, msg))

    def expire(self) -> None:
        """Close a connection that takes too long."""
        if self.stage in (ConnectionStage.HEADERS, ConnectionStage.BODY) and self._has_sent_something:
            self._close_with(
                ApiError(408, "The request did not arrive in time. Send it again, on a faster connection.")
            )
        else:
            self.transport.abort()

    @property
    def _has_sent_something(self) -> bool:
        return self.stage is ConnectionStage.BODY or bool(self.conn.trailing_data[0])

    def _update(self) -> None:
        if self.transport.is_closing():
            return
        if self.conn.their_state is h11.SEND_BODY:
            self._enter(ConnectionStage.DRAINING if self.cycle.response_complete else ConnectionStage.BODY)
        elif self.conn.their_state is not h11.IDLE:
            self._enter(ConnectionStage.RESPONSE)
        elif self.conn.trailing_data[0] or self.cycle is None:
            self._enter(ConnectionStage.HEADERS)
        else:
            self._enter(ConnectionStage.IDLE)

    def _enter(self, stage: ConnectionStage) -> None:
        if stage is self.stage and self._timer is not None:
            return
        self.stage, self.since = stage, self.loop.time()
        if self._timer is not None:
            self._timer.cancel()
        seconds = self._registry.limits.seconds(stage)
        self._timer = None if seconds is None else self.loop.call_later(seconds, self.expire)

    def _close_with(self, error: ApiError) -> None:
        """Send an error if no response has been started, then close the connection."""
        if self.cycle is not None:
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            body = json.dumps(error.body()).encode()
            headers = [
                ("Content-Type", "application/json"),
                ("Content-Length", str(len(body))),
                ("Connection", "close"),
            ]
            phrase = STATUS_PHRASES[error.status]
            start = h11.Response(status_code=error.status, headers=headers, reason=phrase)
            for event in (start, h11.Data(data=body), h11.EndOfMessage()):
                self.transport.write(self.conn.send(event) or b"")
        self.transport.close()
        if self.transport.get_write_buffer_size():
            self.transport.abort()

    def _send_probe(self) -> None:
        """Send data that clients ignore. If the client has closed the connection, its system answers with a reset."""
        data: bytes | None = None
        if self.conn.our_state is h11.SEND_RESPONSE and self.scope["http_version"] == "1.1":
            data = self.conn.send(h11.InformationalResponse(status_code=102, headers=[], reason=b"Processing"))
        elif self.conn.our_state is h11.SEND_BODY and self.scope["state"].get("is_event_stream"):
            data = self.conn.send(h11.Data(data=COMMENT))
        if data:
            self.transport.write(data)

    def _check_probe(self) -> None:
        if self.transport.is_closing():
            return
        if _is_reset(self.transport.get_extra_info("socket")):
            self.transport.abort()
            return
        self._probe = self.loop.call_later(PROBE_SECONDS, self._check_probe)


def _is_reset(connection: Any) -> bool:
    """Return whether the client has reset the connection. False where the system does not provide its state."""
    with suppress(AttributeError, OSError):
        return bool(connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] == TCP_CLOSED)
    return False
