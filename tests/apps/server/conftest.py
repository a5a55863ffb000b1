"""A real server on the loopback interface, and real clients."""

import base64
import json
import socket
import threading
import time
from contextlib import contextmanager

import httpx
import openai
import pytest

import video_llama
from tests.factories.models import make_folder
from video_llama.apps.server import ServerSettings, make_server
from video_llama.chat import read_model_folder, write_model_folder

PATIENCE = 120.0
"""Time limit of a wait, in seconds; long enough for a busy machine."""

CHAT_PATH = "/v1/chat/completions"
MIME_TYPES = {"video": "video/mp4", "silent": "video/mp4", "sound": "audio/wav", "image": "image/png"}

MANY_TOKENS = 20_000
LONG_REQUEST = {
    "model": "tiny",
    "messages": [{"role": "user", "content": "What do you see?"}],
    "max_tokens": MANY_TOKENS,
    "stream": True,
}
"""A request to the ``endless`` model whose answer is still being generated at the next step of a test."""


@pytest.fixture(scope="session")
def urls(clips) -> dict[str, str]:
    """The clips as data: URLs."""
    return {name: data_url(path.read_bytes(), MIME_TYPES[name]) for name, path in clips.items()}


def data_url(data: bytes, mime: str = "video/mp4") -> str:
    return f"data:{mime};base64,{base64.b64encode(data).decode()}"


class Running:
    """A running server at ``url``."""

    def __init__(self, server) -> None:
        self.server, self.service = server, server.service
        port = server.servers[0].sockets[0].getsockname()[1]
        self.address = ("127.0.0.1", port)
        self.url = f"http://127.0.0.1:{port}"

    def client(self, key: str = "none") -> openai.OpenAI:
        """Return the official client, without retries so that tests see every error."""
        return openai.OpenAI(base_url=f"{self.url}/v1", api_key=key, max_retries=0, timeout=PATIENCE)

    def metric(self, name: str, **labels: str) -> float:
        """Return a value of /metrics, 0 if it does not exist yet."""
        value = self.service.metrics._registry.get_sample_value(name, labels)
        return 0.0 if value is None else value


@contextmanager
def running(assistant, **settings):
    """Run a server with these settings in a thread, until the end of the block."""
    server = make_server(assistant, ServerSettings(**settings), port=0)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        until(lambda: server.started or not thread.is_alive())
        yield Running(server)
    finally:
        server.should_exit = True
        thread.join(timeout=PATIENCE)
        assert not thread.is_alive()


def until(condition, seconds: float = PATIENCE) -> None:
    """Wait for a condition. Raises AssertionError if it does not become true in time."""
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


@pytest.fixture(scope="session")
def endless_path(tmp_path_factory):
    """A model whose answers only end at the token limit: all logits are equal, so that it repeats the first id."""
    path = make_folder(tmp_path_factory.mktemp("models") / "tiny")
    folder = read_model_folder(path)
    folder.model.config.text_config.max_position_embeddings = 2 * MANY_TOKENS
    folder.model.lm_head.weight.data.zero_()
    rest = dict(settings=folder.settings, manifest=folder.manifest)
    write_model_folder(path, folder.model, tokenizer_path=path.with_name("tiny.tokenizer.model"), **rest)
    return path


@pytest.fixture(scope="session")
def endless(endless_path):
    return video_llama.load(endless_path, device="cpu")


def running_long(endless, **settings):
    """Run a server that allows very long answers."""
    return running(endless, max_new_tokens=MANY_TOKENS, **settings)


@contextmanager
def long_answer(server):
    """Start a streamed answer; the client disconnects at the end of the block."""
    with httpx.stream("POST", f"{server.url}{CHAT_PATH}", json=LONG_REQUEST, timeout=PATIENCE) as stream:
        lines = stream.iter_lines()
        next(lines)
        yield lines


def single_step(function):
    """Return what ``Scheduler.call_steps`` takes, for one call of a function."""

    def steps():
        yield from ()
        return function()

    return steps


@contextmanager
def held(server: Running, num_jobs: int):
    """Block the scheduler in this block, and after it until this many jobs wait."""
    go_on, scheduler = threading.Event(), server.service.scheduler
    scheduler.call_steps(single_step(lambda: go_on.wait(PATIENCE)))
    try:
        yield
        until(lambda: len(scheduler._jobs) >= num_jobs)
    finally:
        go_on.set()


@contextmanager
def posted(server: Running, path: str, request: dict):
    """Send a request without reading the response; the client disconnects at the end of the block."""
    body = json.dumps(request).encode()
    lines = (
        f"POST {path} HTTP/1.1",
        "Host: localhost",
        "Content-Type: application/json",
        f"Content-Length: {len(body)}",
    )
    with socket.create_connection(server.address) as connection:
        connection.sendall("\r\n".join((*lines, "", "")).encode() + body)
        yield


def ask(question: str, **media: str) -> list[dict]:
    """Return one user message; ``media`` are URLs by the kind of their part (video, image, audio)."""
    parts = [{"type": f"{kind}_url", f"{kind}_url": {"url": url}} for kind, url in media.items()]
    return [{"role": "user", "content": [{"type": "text", "text": question}, *parts]}]
