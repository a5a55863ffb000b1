"""The HTTP server of ``video-llama serve``: an OpenAI-compatible chat completions API.

The web framework is an optional extra and is imported when a server is created.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from video_llama.apps.server.settings import ServerSettings
from video_llama.errors import MissingExtraError

if TYPE_CHECKING:
    from fastapi import FastAPI

    from video_llama.apps.server.ray_serve import RayServer, ReplicaOptions
    from video_llama.apps.server.uvicorn_server import GracefulServer
    from video_llama.chat import Assistant

__all__ = ["ServerSettings", "create_app", "make_ray_server", "make_server"]


def create_app(assistant: Assistant, settings: ServerSettings | None = None) -> FastAPI:
    """Create the ASGI application for a loaded model. Raises MissingExtraError without the ``serve`` extra."""
    try:
        from video_llama.apps.server.app import build_app
    except ImportError as error:
        raise MissingExtraError(error.name or "fastapi", "serve") from error
    return build_app(assistant, settings or ServerSettings())


def make_server(
    assistant: Assistant, settings: ServerSettings | None = None, *, host: str = "127.0.0.1", port: int = 8000
) -> GracefulServer:
    """Create a server; its ``run()`` blocks until SIGTERM or SIGINT, then finishes running answers and returns.

    Raises MissingExtraError without the ``serve`` extra.
    """
    try:
        from video_llama.apps.server.uvicorn_server import build_server
    except ImportError as error:
        raise MissingExtraError(error.name or "uvicorn", "serve") from error
    return build_server(assistant, settings or ServerSettings(), host, port)


def make_ray_server(
    load: Callable[[], Assistant],
    settings: ServerSettings | None = None,
    options: ReplicaOptions | None = None,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
) -> RayServer:
    """Create a server of Ray Serve replicas, each with the model that ``load`` returns.

    Raises MissingExtraError without the extras ``serve`` and ``scale``.
    """
    try:
        from video_llama.apps.server import app  # noqa: F401  (the extra ``serve``)
        from video_llama.apps.server.ray_serve import RayServer, ReplicaOptions
    except ImportError as error:
        raise MissingExtraError(error.name or "fastapi", "serve") from error
    return RayServer(load, settings or ServerSettings(), options or ReplicaOptions(), host, port)
