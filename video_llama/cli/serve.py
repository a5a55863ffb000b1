"""``video-llama serve``: the HTTP server, compatible with OpenAI's chat completions."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from video_llama.apps.host_names import is_loopback
from video_llama.cli.options import ENGINE, MODEL, ModelOptions, RayFlags

if TYPE_CHECKING:
    from video_llama.apps.server import ServerSettings
    from video_llama.apps.server.ray_serve import RayServer, ReplicaOptions
    from video_llama.apps.server.uvicorn_server import GracefulServer

KEY_VARIABLE = "VIDEO_LLAMA_API_KEY"
SERVER = "Server"


@dataclass(frozen=True)
class ServedModelOptions(ModelOptions):
    """The model's options. ``--set`` takes the limits of the server as well."""

    overrides: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="Set a limit of the server, such as max_rows=32, or override a key of the evaluation YAML, such as "
            "model.ckpt=FILE. Repeatable.",
            show_default=False,
            rich_help_panel=MODEL,
        ),
    ] = None


@dataclass(frozen=True)
class ReplicaFlags(RayFlags):
    """Where the server runs: in this process, or as replicas of Ray Serve."""

    replicas: Annotated[
        int, typer.Option(metavar="N", help="Ray: number of replicas, each with a model.", rich_help_panel=ENGINE)
    ] = 1
    max_replicas: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            help="Ray: number to which replicas are added under load (default: --replicas).",
            rich_help_panel=ENGINE,
        ),
    ] = None

    def uses_ray(self) -> bool:
        """Return whether the engine is Ray. Raises ValueError for an unknown one, and for options without Ray."""
        if self.engine_name() == "ray":
            return True
        if self != ReplicaFlags():
            raise ValueError("--replicas, --max-replicas and the resources are options of Ray. Add --engine ray.")
        return False

    def options(self) -> ReplicaOptions:
        """Return the options of the replicas."""
        from video_llama.apps.server.ray_serve import ReplicaOptions

        return ReplicaOptions(self.replicas, self.max_replicas, **self.resources())


def serve(
    model: ServedModelOptions,
    engine: ReplicaFlags,
    host: Annotated[
        str,
        typer.Option(
            metavar="ADDRESS", help="Address to listen on; 0.0.0.0 accepts other machines.", rich_help_panel=SERVER
        ),
    ] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(metavar="PORT", min=0, max=65535, help="Port to listen on.", rich_help_panel=SERVER)
    ] = 8000,
    allow_host: Annotated[
        list[str] | None,
        typer.Option(
            metavar="HOST",
            help="Host from which media may be downloaded (default: none). Repeatable.",
            rich_help_panel=SERVER,
        ),
    ] = None,
    media_root: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", help="Folder that file: URLs may refer to (default: none).", rich_help_panel=SERVER
        ),
    ] = None,
) -> None:
    """Serve a model over HTTP with an OpenAI-compatible API.

    Set the environment variable VIDEO_LLAMA_API_KEY to require a key from clients.
    """
    from video_llama.apps.server import make_ray_server, make_server

    limits, overrides = split_overrides(model.overrides or [])
    settings = server_settings(limits, allow_host or [], media_root)
    model_options = ModelOptions(**vars(replace(model, overrides=overrides)))
    server: GracefulServer | RayServer
    if engine.uses_ray():
        server = make_ray_server(model_options.load, settings, engine.options(), host=host, port=port)
        server.start()
        name, notice = model_options.model, None
    else:
        assistant = model_options.load()
        server = make_server(assistant, settings, host=host, port=port)
        name, notice = assistant.name, assistant.notice
    typer.echo(f"Serving {name} at http://{host}:{port}/v1 (API: http://{host}:{port}/docs)", err=True)
    if notice:
        typer.echo(notice, err=True)
    if settings.api_key is None and not is_loopback(host):
        typer.echo(
            f"Warning: every client that can reach {host} is accepted. Set {KEY_VARIABLE} to require a key.", err=True
        )
    server.run()


def split_overrides(overrides: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return the server's limits (``max_rows=32``) and the keys of the evaluation YAML (``model.ckpt=FILE``)."""
    limits = [text for text in overrides if "." not in text.partition("=")[0]]
    return limits, [text for text in overrides if text not in limits]


def server_settings(limits: Sequence[str], allowed_hosts: Sequence[str], media_root: Path | None) -> ServerSettings:
    """Return the settings of the server, with the key of the environment. Raises ConfigError for an unknown limit."""
    from video_llama.apps.server import ServerSettings
    from video_llama.config import apply_overrides, parse_config

    data = apply_overrides({}, limits)
    if allowed_hosts:
        data["allowed_hosts"] = list(allowed_hosts)
    if media_root is not None:
        data["media_root"] = media_root
    if os.environ.get(KEY_VARIABLE):
        data["api_key"] = os.environ[KEY_VARIABLE]
    return parse_config(ServerSettings, data, source="serve")
