"""Start and stop the web server of the demo. Uploads go to a temporary folder; no external service is contacted."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from video_llama.apps.demo.page_middleware import PageMiddleware
from video_llama.apps.demo.visitors import Visitors
from video_llama.apps.host_names import is_loopback
from video_llama.apps.media.limits import MEBIBYTE, MediaLimits
from video_llama.apps.media.reader import MediaReader
from video_llama.chat import Assistant
from video_llama.errors import MissingExtraError

STYLE = Path(__file__).with_name("style.css")
MAX_UPLOAD_BYTES = 512 * MEBIBYTE
MAX_SESSIONS = 256
"""Maximum number of sessions whose component values Gradio keeps."""
LIMITS = MediaLimits(max_media_seconds=3600, media_worker_seconds=120, media_worker_bytes=4096 * MEBIBYTE)
"""Higher than the limits of the HTTP server, because the demo usually runs on the machine of its user."""

ENVIRONMENT = {
    "GRADIO_ANALYTICS_ENABLED": "False",  # read when gradio is imported; otherwise the server sends usage statistics
    "HF_HUB_OFFLINE": "1",
}


@dataclass(frozen=True)
class RunningDemo:
    """A running web server. ``uploads`` is the folder of the uploaded files."""

    url: str
    visitors: Visitors
    uploads: Path


@contextmanager
def running_demo(
    assistant: Assistant,
    *,
    host: str = "127.0.0.1",
    port: int | None = None,
    with_audio: bool = True,
    is_greedy: bool = False,
    limits: MediaLimits = LIMITS,
) -> Iterator[RunningDemo]:
    """Serve the page until the block ends, then delete the uploads.

    ``port`` None uses the first free port from 7860. ``is_greedy`` selects the initial decoding method: greedy, or the
    sampling settings of the reference. ``limits`` apply to the processes that decode media. Raises MissingExtraError
    if gradio is not installed, ValueError if the port is in use.
    """
    os.environ.update(ENVIRONMENT)
    try:
        from starlette.middleware import Middleware

        from video_llama.apps.demo.page import PageOptions, build_page, page_theme
    except ModuleNotFoundError as error:
        if error.name != "gradio":
            raise
        raise MissingExtraError("gradio", "demo") from error

    with_audio = with_audio and assistant.config.with_audio_branch
    with (
        tempfile.TemporaryDirectory(prefix="video-llama-demo-") as folder,
        closing(MediaReader(assistant.engine, limits)) as reader,
    ):
        os.environ["GRADIO_TEMP_DIR"] = folder
        visitors = Visitors(assistant, reader, with_audio=with_audio)
        page = build_page(visitors, PageOptions(with_audio, is_greedy, example_clips()))
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
                state_session_capacity=MAX_SESSIONS,
                app_kwargs={"middleware": [Middleware(PageMiddleware, visitors=visitors, is_local=is_loopback(host))]},
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
    """Return the shipped clips, from the installed package or the ``examples`` folder of the checkout."""
    package = Path(__file__).resolve().parents[2]
    for folder in (package / "examples", package.parent / "examples"):
        if folder.is_dir():
            return sorted(folder.glob("*.mp4"))
    return []
