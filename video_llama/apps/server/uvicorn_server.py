"""The web server: uvicorn, which when told to stop lets running answers end, and tells those that take too long."""

from __future__ import annotations

import asyncio
import socket

import uvicorn

from video_llama.apps.server.app import create_app
from video_llama.apps.server.service import Service
from video_llama.apps.server.settings import ServerSettings
from video_llama.chat.assistant import Assistant

LAST_WORDS_SECONDS = 5
"""For sending what is left after the running answers were given up."""


class GracefulServer(uvicorn.Server):
    """Takes no new connection once it is told to stop. After ``grace_seconds`` the answers that still run end with an
    error that says so, instead of a connection that breaks."""

    def __init__(self, config: uvicorn.Config, service: Service, grace_seconds: float) -> None:
        super().__init__(config)
        self.service, self._grace_seconds = service, grace_seconds

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """End in good order."""
        giving_up = asyncio.create_task(self._give_up())
        await super().shutdown(sockets)
        giving_up.cancel()

    async def _give_up(self) -> None:
        await asyncio.sleep(self._grace_seconds)
        await asyncio.to_thread(self.service.scheduler.stop)


def make_server(assistant: Assistant, settings: ServerSettings, host: str, port: int) -> GracefulServer:
    """A server for one loaded model."""
    app = create_app(assistant, settings)
    config = uvicorn.Config(
        app,
        host=host,
        port=port,
        log_config=None,
        access_log=False,
        timeout_graceful_shutdown=settings.shutdown_seconds + LAST_WORDS_SECONDS,
    )
    return GracefulServer(config, app.state.service, settings.shutdown_seconds)
