"""A real server on the loopback, and real clients."""

import base64
import json
import socket
import threading
import time
from contextlib import contextmanager

import pytest

PATIENCE = 120.0
"""Seconds until a test gives up waiting; for machines that are busy with other things."""

MIME = {"video": "video/mp4", "silent": "video/mp4", "sound": "audio/wav", "image": "image/png"}


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

        return openai.OpenAI(base_url=f"{self.url}/v1", api_key=key, max_retries=0, timeout=PATIENCE)

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
        thread.join(timeout=PATIENCE)
        assert not thread.is_alive()


def until(condition, seconds: float = PATIENCE) -> None:
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


@contextmanager
def held(server: Running, num_orders: int):
    """The model does nothing in this block, and nothing after it before so many answers wait for it."""
    go_on, thread = threading.Event(), server.service.scheduler
    thread.call(lambda: go_on.wait(PATIENCE))
    try:
        yield
        until(lambda: len(thread._orders) >= num_orders)
    finally:
        go_on.set()


@contextmanager
def posted(server: Running, path: str, request: dict):
    """A request that was sent and whose answer nobody reads; the client leaves at the end of the block."""
    body = json.dumps(request).encode()
    lines = (f"POST {path} HTTP/1.1", "Host: x", "Content-Type: application/json", f"Content-Length: {len(body)}")
    with socket.create_connection(server.address) as connection:
        connection.sendall("\r\n".join((*lines, "", "")).encode() + body)
        yield


def ask(question: str, **media: str) -> list[dict]:
    """One user's message; ``media`` are URLs by the kind of their part (video, image, audio)."""
    parts = [{"type": f"{kind}_url", f"{kind}_url": {"url": url}} for kind, url in media.items()]
    return [{"role": "user", "content": [{"type": "text", "text": question}, *parts]}]
