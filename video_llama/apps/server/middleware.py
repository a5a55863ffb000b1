"""What stands in front of every route: the key, the size of the body, and the count of what was answered."""

from __future__ import annotations

import hmac
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse

from video_llama.apps.server.errors import ApiError
from video_llama.apps.server.metrics import Metrics

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

OPEN_PATHS = ("/health",)
"""What needs no key: whoever starts the server must be able to ask whether it lives."""

CLIENT_GONE = 499
"""The status, for our counts only, of a request whose client went away (nginx's word for it)."""


class Gate:
    """ASGI middleware: refuses without the key, and bodies that are too large; counts requests by path and status."""

    def __init__(self, app: App, *, key: str | None, max_body_bytes: int, metrics: Metrics, paths: set[str]) -> None:
        self._app, self._max_body_bytes, self._metrics, self._paths = app, max_body_bytes, metrics, paths
        self._expected = None if key is None else f"Bearer {key}".encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        status = CLIENT_GONE

        async def counted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            refusal = self._refusal(scope)
            if refusal is not None:
                return await error_response(refusal)(scope, receive, counted)
            await self._app(scope, self._limited(receive), counted)
        finally:
            # Paths that do not exist are a client's to invent, and would each be a counter.
            path = scope["path"] if scope["path"] in self._paths else "other"
            self._metrics.requests.labels(path, str(status)).inc()

    def _refusal(self, scope: Scope) -> ApiError | None:
        headers = dict(scope["headers"])
        if self._expected is not None and scope["path"] not in OPEN_PATHS:
            given = headers.get(b"authorization", b"")
            if not hmac.compare_digest(given, self._expected):
                message = "The key is missing or wrong. Send it as: Authorization: Bearer KEY"
                return ApiError(401, message, code="invalid_api_key", headers={"WWW-Authenticate": "Bearer"})
        length = headers.get(b"content-length", b"0")
        if length.isdigit() and int(length) > self._max_body_bytes:
            return ApiError(413, self._too_large())
        return None

    def _limited(self, receive: Receive) -> Receive:
        """``receive`` that stops at the limit, whatever the request said of its length."""
        num_bytes = 0

        async def limited() -> Message:
            nonlocal num_bytes
            message = await receive()
            num_bytes += len(message.get("body", b""))
            if num_bytes > self._max_body_bytes:
                raise HTTPException(413, self._too_large())
            return message

        return limited

    def _too_large(self) -> str:
        return f"The request is larger than {self._max_body_bytes:,} bytes. Send a smaller one."


def error_response(error: ApiError) -> JSONResponse:
    """An error as a response."""
    return JSONResponse(error.body(), error.status, headers=error.headers)
