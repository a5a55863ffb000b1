"""``video-llama demo``: the web demo."""

from __future__ import annotations

import signal
import threading
from typing import TYPE_CHECKING, Annotated

import typer

from video_llama.cli.options import ModelOptions

if TYPE_CHECKING:
    from video_llama.chat import Assistant

PAGE = "Web page"
HOST = "127.0.0.1"


def demo(
    model: ModelOptions,
    host: Annotated[
        str,
        typer.Option(
            metavar="ADDRESS", help="Address to listen on; 0.0.0.0 accepts other machines.", rich_help_panel=PAGE
        ),
    ] = HOST,
    port: Annotated[
        int | None,
        typer.Option(
            metavar="PORT", help="Port to listen on (default: the first free port from 7860).", rich_help_panel=PAGE
        ),
    ] = None,
    only_vision: Annotated[
        bool, typer.Option("--only-vision", help="Ignore the audio of all files.", rich_help_panel=PAGE)
    ] = False,
) -> None:
    """Start the web demo.

    Prints its address; press Ctrl-C to stop it. By default the miniature uses greedy decoding and other models use
    the sampling settings of the original demo. The page has controls for both.
    """
    from video_llama.chat.loading import MINIATURE

    serve_page(model.load(), host, port, with_audio=not only_vision, is_greedy=model.model == MINIATURE)


def serve_page(assistant: Assistant, host: str, port: int | None, *, with_audio: bool, is_greedy: bool) -> None:
    """Serve the web demo until Ctrl-C or SIGTERM. Raises ValueError for a port that cannot be used."""
    from video_llama.apps.demo.serving import running_demo

    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with running_demo(assistant, host=host, port=port, with_audio=with_audio, is_greedy=is_greedy) as page:
        typer.echo(f"{page.url} (press Ctrl-C to stop)")
        threading.Event().wait()
