"""``video-llama serve``: OpenAI's chat completions over HTTP, until a signal ends it."""

from __future__ import annotations

import ipaddress
import os
from pathlib import Path
from typing import Annotated, Any

import typer

from video_llama.cli import options

KEY_VARIABLE = "VIDEO_LLAMA_API_KEY"
LIMITS = "Limits"


def serve(
    model: options.Model = "miniature",
    overrides: options.Overrides = None,
    device: options.Device = None,
    dtype: options.Dtype = None,
    quantization: options.Quantization = None,
    low_resource: options.LowResource = False,
    device_map: options.DeviceMap = None,
    host: Annotated[str, typer.Option(help="Address to listen at.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen at.")] = 8000,
    allow_host: Annotated[
        list[str] | None,
        typer.Option(help="A host that media may be fetched from; may be repeated.", rich_help_panel=LIMITS),
    ] = None,
    media_root: Annotated[
        Path | None, typer.Option(help="The folder that file: URLs may name files in.", rich_help_panel=LIMITS)
    ] = None,
    limits: Annotated[
        list[str] | None,
        typer.Option("--set", help="max_rows=32 and the like; may be repeated.", rich_help_panel=LIMITS),
    ] = None,
    debug: options.Debug = False,
) -> None:
    """Answer over HTTP as OpenAI's API does. A key that clients must send is read from VIDEO_LLAMA_API_KEY."""
    from video_llama.apps.server import make_server

    settings = _settings(limits or [], allow_host or [], media_root)
    assistant = options.load_assistant(
        model, overrides, device, dtype, quantization=quantization, low_resource=low_resource, device_map=device_map
    )
    server = make_server(assistant, settings, host=host, port=port)
    typer.echo(
        f"{assistant.name} answers at http://{host}:{port}/v1 (what it takes: http://{host}:{port}/docs)", err=True
    )
    if assistant.notice:
        typer.echo(assistant.notice, err=True)
    if settings.api_key is None and not _is_loopback(host):
        typer.echo(f"Everybody who reaches {host} is answered. Set {KEY_VARIABLE} to ask for a key.", err=True)
    server.run()


def _settings(limits: list[str], allowed_hosts: list[str], media_root: Path | None) -> Any:
    from video_llama.apps.server import ServerSettings
    from video_llama.config import apply_overrides, parse_config

    data = apply_overrides({}, limits)
    if allowed_hosts:
        data["allowed_hosts"] = allowed_hosts
    if media_root is not None:
        data["media_root"] = media_root
    if os.environ.get(KEY_VARIABLE):
        data["api_key"] = os.environ[KEY_VARIABLE]
    return parse_config(ServerSettings, data, source="serve")


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
