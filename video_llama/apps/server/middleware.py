"""ASGI middleware: host names, API key, body size, and the request counter."""

from __future__ import annotations

import hmac

from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from video_llama.apps.host_names import accepts_headers
from video_llama.apps.server.errors import ApiError
from video_llama.apps.server.metrics import Metrics
from video_llama.apps.server.settings import ServerSettings

OPEN_PATHS = ("/health",)
"""Paths that require no API key. Health checks must work without one."""

CLIENT_DISCONNECTED = 499
"""Status in the metrics of a request whose client disconnected, as in nginx. It is never sent."""


class RequestMiddleware:
    """Checks host name, API key and body size before a request is read, and counts requests by path and status.

    ``is_local``: the server listens on a loopback address, so that the host name is checked.
    """

    def __init__(
        self, app: ASGIApp, *, settings: ServerSettings, metrics: Metrics, paths: set[str], is_local: bool
    ) -> None:
        self._app, self._settings, self._metrics, self._paths = app, settings, metrics, paths
        self._is_local, self._num_held_bytes = is_local, 0
        key = settings.api_key
        self._expected = None if key is None else key.get_secret_value().encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        status = CLIENT_DISCONNECTED
        body = _Body(self, receive)

        async def counted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            error = self._check(scope)
            if error is not None:
                return await error_response(error)(scope, receive, counted)
            await self._app(scope, body.receive, counted)
        finally:
            self._num_held_bytes -= body.num_bytes
            # Unknown paths share one counter; clients could otherwise create any number of counters.
            path = scope["path"] if scope["path"] in self._paths else "other"
            self._metrics.requests.labels(path, str(status)).inc()

    def _check(self, scope: Scope) -> ApiError | None:
        headers = dict(scope["headers"])
        if self._is_local and not accepts_headers(scope["headers"], self._settings.server_names):
            return ApiError(403, "The Host header names another host. Use localhost, or set server_names.")
        if self._expected is not None and scope["path"] not in OPEN_PATHS:
            scheme, _, given = headers.get(b"authorization", b"").partition(b" ")
            if scheme.lower() != b"bearer" or not hmac.compare_digest(given.strip(), self._expected):
                message = "The API key is missing or wrong. Send it in the header Authorization: Bearer KEY"
                return ApiError(401, message, code="invalid_api_key", headers={"WWW-Authenticate": "Bearer"})
        length = headers.get(b"content-length", b"0")
        if length.isdigit() and int(length) > self._settings.max_body_bytes:
            return self._too_large()
        return None

    def _too_large(self) -> ApiError:
        limit = self._settings.max_body_bytes
        return ApiError(413, f"The request is larger than {limit:,} bytes. Send a smaller one.")

    def hold(self, num_bytes: int, num_before: int) -> None:
        """Count received bytes of a request that has ``num_before`` already. Raises HTTPException above a limit."""
        self._num_held_bytes += num_bytes
        if num_before + num_bytes > self._settings.max_body_bytes:
            raise HTTPException(413, str(self._too_large()))
        total = max(self._settings.max_total_body_bytes, self._settings.max_body_bytes)
        if self._num_held_bytes > total:
            message = "The server is receiving too many large requests. Try again in 1 s."
            raise HTTPException(503, message, headers={"Retry-After": "1"})


class _Body:
    """Enforces the limits of a body, independently of the Content-Length header."""

    def __init__(self, middleware: RequestMiddleware, receive: Receive) -> None:
        self._middleware, self._receive = middleware, receive
        self.num_bytes = 0

    async def receive(self) -> Message:
        message = await self._receive()
        num_new = len(message.get("body", b""))
        self.num_bytes, num_before = self.num_bytes + num_new, self.num_bytes
        self._middleware.hold(num_new, num_before)
        return message


def error_response(error: ApiError) -> JSONResponse:
    """Return the response for an error."""
    return JSONResponse(error.body(), error.status, headers=error.headers)
