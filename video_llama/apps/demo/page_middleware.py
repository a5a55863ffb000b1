"""ASGI middleware of the demo: host names, and which visitors have the page open."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from typing import Any

from video_llama.apps.demo.visitors import Visitors
from video_llama.apps.host_names import accepts_headers

HEARTBEAT = re.compile(r"/gradio_api/heartbeat/([^/]+)$")
REFUSAL = b"The Host header names another host. Use localhost."

Scope = dict[str, Any]
Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]


class PageMiddleware:
    """Refuses requests for other host names if the server listens on a loopback address, and counts heartbeats."""

    def __init__(self, app: Callable[..., Awaitable[None]], *, visitors: Visitors, is_local: bool) -> None:
        self._app, self._visitors, self._is_local = app, visitors, is_local

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            return await self._app(scope, receive, send)
        if self._is_local and not accepts_headers(scope["headers"]):
            await send({"type": "http.response.start", "status": 403, "headers": [(b"content-type", b"text/plain")]})
            return await send({"type": "http.response.body", "body": REFUSAL})
        heartbeat = HEARTBEAT.search(scope["path"])
        if heartbeat is None:
            return await self._app(scope, receive, send)
        name = heartbeat.group(1)
        self._visitors.page_opened(name)
        try:
            await self._app(scope, receive, send)
        finally:
            self._visitors.page_closed(name)
