"""The uvicorn server: limits of its connections, and a graceful shutdown in which running answers may finish."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import time
from functools import partial
from typing import Any

import uvicorn

from video_llama.apps.host_names import is_loopback
from video_llama.apps.server.app import build_app
from video_llama.apps.server.connections import ConnectionLimits, Connections, LimitedProtocol, usable_connections
from video_llama.apps.server.service import Service
from video_llama.apps.server.settings import ServerSettings
from video_llama.chat.assistant import Assistant
from video_llama.log import logger

FINAL_RESPONSE_SECONDS = 5
"""Time to send the final error responses after the scheduler has stopped."""


BACKLOG = 2048
"""Number of connections that may wait until they are accepted."""
NUM_ACCEPTED = 8
"""Number of connections accepted at once. The limit of connections is enforced before the next ones are accepted."""
OUT_OF_FILES = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
LOG_SECONDS = 60
"""Minimum time between two messages about missing file descriptors."""


class GracefulServer(uvicorn.Server):
    """Refuses new connections once a shutdown starts and waits for running answers.

    Answers that still run after ``grace_seconds`` end with an error response instead of a dropped connection.
    """

    def __init__(self, config: uvicorn.Config, service: Service, grace_seconds: float) -> None:
        super().__init__(config)
        self.service, self._grace_seconds = service, grace_seconds
        self._logged_at = -float("inf")

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start the application and listen."""
        asyncio.get_running_loop().set_exception_handler(self._log_failure)
        await super().startup(sockets)
        for listener in (listener for server in self.servers for listener in server.sockets):
            with socket.socket(fileno=os.dup(listener.fileno())) as duplicate:
                duplicate.listen(BACKLOG)  # asyncio uses one number for both

    def _log_failure(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """Log an error of the event loop; a lack of file descriptors at most once per minute."""
        error = context.get("exception")
        if not isinstance(error, OSError) or error.errno not in OUT_OF_FILES:
            loop.default_exception_handler(context)
        elif time.monotonic() - self._logged_at > LOG_SECONDS:
            self._logged_at = time.monotonic()
            logger.error("No connection can be accepted (%s). Raise the limit: ulimit -n", error.strerror)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Shut down, stopping the scheduler after the grace period."""
        stopping = asyncio.create_task(self._stop_after_grace())
        await super().shutdown(sockets)
        stopping.cancel()

    async def _stop_after_grace(self) -> None:
        await asyncio.sleep(self._grace_seconds)
        await asyncio.to_thread(self.service.scheduler.stop)


def build_server(assistant: Assistant, settings: ServerSettings, host: str, port: int) -> GracefulServer:
    """Create the server for one loaded model."""
    app = build_app(assistant, settings, is_local=is_loopback(host))
    limits = ConnectionLimits(
        usable_connections(settings.max_connections),
        settings.max_connections_per_address,
        settings.header_seconds,
        settings.body_seconds,
        settings.request_seconds + settings.shutdown_seconds,
    )
    config = uvicorn.Config(
        app,
        host=host,
        port=port,
        loop="asyncio",  # the same with and without uvloop, which Ray Serve installs
        http=partial(LimitedProtocol, registry=Connections(limits)),  # type: ignore[arg-type]
        log_config=None,
        log_level="error",  # a warning for every request that is not HTTP would fill the log
        access_log=False,
        ws="none",
        backlog=NUM_ACCEPTED,
        timeout_graceful_shutdown=settings.shutdown_seconds + FINAL_RESPONSE_SECONDS,
    )
    return GracefulServer(config, app.state.service, settings.shutdown_seconds)
