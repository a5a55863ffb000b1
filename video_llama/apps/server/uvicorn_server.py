"""The uvicorn server with a graceful shutdown: running answers may finish within a time limit."""

from __future__ import annotations

import asyncio
import socket

import uvicorn

from video_llama.apps.server.app import build_app
from video_llama.apps.server.service import Service
from video_llama.apps.server.settings import ServerSettings
from video_llama.chat.assistant import Assistant

FINAL_RESPONSE_SECONDS = 5
"""Time to send the final error responses after the scheduler has stopped."""


class GracefulServer(uvicorn.Server):
    """Refuses new connections once a shutdown starts and waits for running answers.

    Answers that still run after ``grace_seconds`` end with an error response instead of a dropped connection.
    """

    def __init__(self, config: uvicorn.Config, service: Service, grace_seconds: float) -> None:
        super().__init__(config)
        self.service, self._grace_seconds = service, grace_seconds

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
    app = build_app(assistant, settings)
    config = uvicorn.Config(
        app,
        host=host,
        port=port,
        log_config=None,
        access_log=False,
        timeout_graceful_shutdown=settings.shutdown_seconds + FINAL_RESPONSE_SECONDS,
    )
    return GracefulServer(config, app.state.service, settings.shutdown_seconds)
