"""A tiny random model behind a real server on the loopback, real clients, and real media files."""

import base64
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from tests.chat.making import make_folder, write_video, write_wav

SEED = 3
MIME = {"video": "video/mp4", "silent": "video/mp4", "sound": "audio/wav", "image": "image/png"}


@pytest.fixture(scope="session")
def model_path(tmp_path_factory) -> Path:
    """A folder of a tiny random model. Its manifest calls it trained, so that it answers: the tests are about how."""
    return make_folder(tmp_path_factory.mktemp("models") / "tiny", seed=SEED)


@pytest.fixture(scope="session")
def assistant(model_path):
    import video_llama

    return video_llama.load(model_path, device="cpu")


@pytest.fixture(scope="session")
def clips(tmp_path_factory) -> dict[str, Path]:
    """A video with sound, one without, a sound and an image."""
    from PIL import Image

    folder, rng = tmp_path_factory.mktemp("clips"), np.random.default_rng(0)
    tone = 0.5 * np.sin(np.arange(3 * 16000) * 0.05).astype(np.float32)
    Image.fromarray(rng.integers(0, 256, (40, 60, 3), dtype=np.uint8)).save(folder / "picture.png")
    return {
        "video": write_video(folder / "with sound.mp4", rng, seconds=3, tone=tone),
        "silent": write_video(folder / "silent.mp4", rng, seconds=2),
        "sound": write_wav(folder / "tone.wav", tone),
        "image": folder / "picture.png",
    }


@pytest.fixture(scope="session")
def urls(clips) -> dict[str, str]:
    """The clips as data: URLs."""
    return {name: data_url(path.read_bytes(), MIME[name]) for name, path in clips.items()}


def data_url(data: bytes, mime: str = "video/mp4") -> str:
    return f"data:{mime};base64,{base64.b64encode(data).decode()}"


class Running:
    """A server that answers at ``url``."""

    def __init__(self, server) -> None:
        self.server, self.service = server, server.service
        port = server.servers[0].sockets[0].getsockname()[1]
        self.address = ("127.0.0.1", port)
        self.url = f"http://127.0.0.1:{port}"

    def client(self, key: str = "none"):
        """The official client, as anybody would make it. Without retries: a refusal is to be seen."""
        import openai

        return openai.OpenAI(base_url=f"{self.url}/v1", api_key=key, max_retries=0, timeout=60)

    def metric(self, name: str, **labels: str) -> float:
        """A value out of /metrics; 0 where it was never counted."""
        value = self.service.metrics._registry.get_sample_value(name, labels)
        return 0.0 if value is None else value


@contextmanager
def running(assistant, **settings):
    """A server with these settings, in a thread; it has stopped when the block ends."""
    from video_llama.apps.server import ServerSettings, make_server

    server = make_server(assistant, ServerSettings(**settings), port=0)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        until(lambda: server.started or not thread.is_alive())
        yield Running(server)
    finally:
        server.should_exit = True
        thread.join(timeout=60)
        assert not thread.is_alive()


def until(condition, seconds: float = 20.0) -> None:
    """Wait for a condition; an AssertionError if it does not come true."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"not within {seconds} s"
        time.sleep(0.01)


@pytest.fixture(scope="session")
def server(assistant):
    """A server with its default limits."""
    with running(assistant) as server:
        yield server


@pytest.fixture(scope="session")
def client(server):
    return server.client()


def ask(question: str, **media: str) -> list[dict]:
    """One user's message; ``media`` are URLs by the kind of their part (video, image, audio)."""
    parts = [{"type": f"{kind}_url", f"{kind}_url": {"url": url}} for kind, url in media.items()]
    return [{"role": "user", "content": [{"type": "text", "text": question}, *parts]}]
