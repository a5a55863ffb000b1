"""What a request leaves behind: nothing that waits for Python's cycle collector, whose full runs are far apart."""

import gc
from contextlib import contextmanager

import httpx
import pytest

from tests.apps.server.conftest import PATIENCE, ask, data_url, until

BROKEN = {"broken": data_url(b"no video")}


@contextmanager
def no_collector():
    """Python without its cycle collector, and without what it would find."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def parts_of_requests() -> list[object]:
    """Every part of a request that lives in this process."""
    from video_llama.apps.server.protocol import ChatRequest
    from video_llama.apps.server.scheduler import DecodeJob
    from video_llama.apps.server.service import PendingAnswers
    from video_llama.chat.engine import PreparedTurn

    parts = {DecodeJob, ChatRequest, PendingAnswers, PreparedTurn}
    return [kept for kept in gc.get_objects() if type(kept) in parts]


@pytest.mark.parametrize(
    ("medium", "question", "stream", "status"),
    [
        ("video", "What do you see?", False, 200),
        ("video", "What do you see?", True, 200),
        ("broken", "What do you see?", False, 400),
        ("video", "What do you see? " * 2000, False, 400),
    ],
    ids=["whole", "stream", "bad medium", "too long"],
)
def test_nothing_stays(server, urls, medium, question, stream, status):
    messages = ask(question, video={**urls, **BROKEN}[medium])
    request = {"model": "tiny", "messages": messages, "max_tokens": 4, "stream": stream}
    with no_collector():
        others = parts_of_requests()  # what tests before this one hold; kept here, so that no id is used again
        known = {id(part) for part in others}
        reply = httpx.post(f"{server.url}/v1/chat/completions", json=request, timeout=PATIENCE)
        assert reply.status_code == status
        until(lambda: all(id(part) in known for part in parts_of_requests()), seconds=20)
