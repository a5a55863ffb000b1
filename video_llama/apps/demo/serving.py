"""Start the page and stop it: a temporary folder for uploads, no connection to anywhere but the visitors' browsers."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from video_llama.apps.demo.visitors import Visitors
from video_llama.apps.media.limits import MEBIBYTE, MediaLimits
from video_llama.apps.media.reader import MediaReader
from video_llama.chat import Assistant
from video_llama.errors import MissingExtraError

STYLE = Path(__file__).with_name("style.css")
MAX_UPLOAD_BYTES = 512 * MEBIBYTE
LIMITS = MediaLimits(max_media_seconds=3600, media_worker_seconds=120, media_worker_bytes=4096 * MEBIBYTE)
"""More than the HTTP server allows: whoever starts the page mostly is the one who uses it."""

ENVIRONMENT = {
    "GRADIO_ANALYTICS_ENABLED": "False",  # else the server calls home; read when gradio is imported
    "HF_HUB_OFFLINE": "1",
}


@dataclass(frozen=True)
class RunningDemo:
    """A page that is being served; ``uploads`` is the folder of the visitors' files."""

    url: str
    visitors: Visitors
    uploads: Path


@contextmanager
def running_demo(
    assistant: Assistant,
    *,
    host: str = "127.0.0.1",
    port: int | None = None,
    with_sound: bool = True,
    is_greedy: bool = False,
    limits: MediaLimits = LIMITS,
) -> Iterator[RunningDemo]:
    """Serve the page until the block ends; the uploads are deleted then.

    ``port`` None takes a free one from 7860 on. ``is_greedy`` is the way of answering that is set at first; the other
    is the reference's sampling. ``limits`` are those of the processes that decode media. Raises MissingExtraError
    without gradio, ValueError for a port that is taken.
    """
    os.environ.update(ENVIRONMENT)
    try:
        from video_llama.apps.demo.page import PageOptions, build_page, page_theme
    except ModuleNotFoundError as error:
        if error.name != "gradio":
            raise
        raise MissingExtraError("gradio", "demo") from error

    can_hear = with_sound and assistant.config.with_audio_branch
    with (
        tempfile.TemporaryDirectory(prefix="video-llama-demo-") as folder,
        closing(MediaReader(assistant.engine, limits)) as reader,
    ):
        os.environ["GRADIO_TEMP_DIR"] = folder
        visitors = Visitors(assistant, reader, with_sound=can_hear)
        page = build_page(visitors, PageOptions(can_hear, is_greedy, example_clips()))
        try:
            _, url, _ = page.launch(
                server_name=host,
                server_port=port,
                prevent_thread_lock=True,
                share=False,
                quiet=True,
                ssr_mode=False,
                pwa=False,
                footer_links=[],
                max_file_size=MAX_UPLOAD_BYTES,
                allowed_paths=[str(path) for path in example_clips()],
                theme=page_theme(),
                css_paths=STYLE,
            )
        except OSError as error:
            raise ValueError(f"Port {port} of {host} cannot be used ({error}). Choose another: --port") from error
        try:
            yield RunningDemo(url, visitors, Path(folder))
        finally:
            page.close(verbose=False)


def example_clips() -> list[Path]:
    """The shipped clips: in the installed package, or in the checkout's ``examples``; none where neither is."""
    package = Path(__file__).resolve().parents[2]
    for folder in (package / "examples", package.parent / "examples"):
        if folder.is_dir():
            return sorted(folder.glob("*.mp4"))
    return []
