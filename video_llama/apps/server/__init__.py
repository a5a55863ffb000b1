"""The HTTP server: ``video-llama serve``, with OpenAI's chat completions. Importing this loads no web framework."""

from __future__ import annotations

from typing import TYPE_CHECKING

from video_llama.apps.server.settings import ServerSettings
from video_llama.errors import MissingExtraError

if TYPE_CHECKING:
    from fastapi import FastAPI

    from video_llama.apps.server.uvicorn_server import GracefulServer
    from video_llama.chat import Assistant

__all__ = ["ServerSettings", "create_app", "make_server"]


def create_app(assistant: Assistant, settings: ServerSettings | None = None) -> FastAPI:
    """The ASGI application for a loaded model. Raises MissingExtraError without the ``serve`` extra."""
    try:
        from video_llama.apps.server import app
    except ImportError as error:
        raise MissingExtraError(error.name or "fastapi", "serve") from error
    return app.create_app(assistant, settings or ServerSettings())


def make_server(
    assistant: Assistant, settings: ServerSettings | None = None, *, host: str = "127.0.0.1", port: int = 8000
) -> GracefulServer:
    """A server that is ready to ``run()``; SIGTERM or SIGINT ends it, once running answers are done.

    Raises MissingExtraError without the ``serve`` extra.
    """
    try:
        from video_llama.apps.server import uvicorn_server
    except ImportError as error:
        raise MissingExtraError(error.name or "uvicorn", "serve") from error
    return uvicorn_server.make_server(assistant, settings or ServerSettings(), host, port)
