"""Admission, time limit, disconnected clients, and memory: a request leaves no reference cycles behind."""

import gc
import threading
from contextlib import contextmanager

import httpx
import openai
import pytest

from tests.apps.server.conftest import (
    CHAT_PATH,
    LONG_REQUEST,
    PATIENCE,
    ask,
    data_url,
    long_answer,
    posted,
    running,
    running_long,
    until,
)
from video_llama.apps.server.errors import ApiError
from video_llama.apps.server.protocol import ChatRequest
from video_llama.apps.server.scheduler import DecodeJob, SchedulerStoppedError
from video_llama.apps.server.service import PendingAnswers, as_api_error
from video_llama.chat.engine import PreparedTurn
from video_llama.errors import CheckpointError, ContextLengthError, MediaError, PromptError

QUESTION = LONG_REQUEST["messages"]
BROKEN = {"broken": data_url(b"no video")}


class TestQueue:
    def test_full_queue_returns_429_with_the_time_to_wait(self, endless):
        with running_long(endless, max_rows=1, max_queue=1) as server:
            with long_answer(server), long_answer_waiting(server):
                reply = httpx.post(f"{server.url}{CHAT_PATH}", json={**LONG_REQUEST, "stream": False})
                assert reply.status_code == 429
                assert int(reply.headers["Retry-After"]) >= 1
                assert reply.json()["error"]["code"] == "queue_full"
                with pytest.raises(openai.RateLimitError, match="All 2 places are taken"):
                    server.client().chat.completions.create(model="tiny", messages=QUESTION)
            until(lambda: server.service.num_taken == 0)
            assert server.client().chat.completions.create(model="tiny", messages=QUESTION, max_tokens=1).choices

    def test_each_choice_needs_a_place(self, assistant):
        with running(assistant, max_rows=2, max_queue=0) as server, pytest.raises(openai.RateLimitError):
            server.client().chat.completions.create(model="tiny", messages=QUESTION, n=3)


@contextmanager
def long_answer_waiting(server):
    """Send a second request, which waits for the place of the first."""

    def wait():
        with long_answer(server):
            left.wait()

    left = threading.Event()
    thread = threading.Thread(target=wait)
    thread.start()
    until(lambda: server.service.num_taken == 2)
    try:
        yield
    finally:
        left.set()
        thread.join()


@pytest.fixture(scope="module")
def hurried(endless):
    """A server with a short time limit, which is long enough for an answer to start."""
    with running_long(endless, request_seconds=1.5) as server:
        yield server


class TestTimeLimit:
    def test_complete_response(self, hurried):
        reply = httpx.post(f"{hurried.url}{CHAT_PATH}", json={**LONG_REQUEST, "stream": False}, timeout=PATIENCE)
        assert reply.status_code == 504
        assert "No answer within 1.5 s. Request fewer tokens" in reply.json()["error"]["message"]
        until(lambda: hurried.service.num_taken == hurried.service.num_running == 0)

    def test_stream(self, hurried):
        stream = hurried.client().chat.completions.create(**LONG_REQUEST)
        with pytest.raises(openai.APIError, match=r"No answer within 1\.5 s"):
            list(stream)
        until(lambda: hurried.service.num_taken == hurried.service.num_running == 0)


class TestDisconnectedClient:
    def test_stream(self, endless):
        with running_long(endless) as server:
            with long_answer(server):
                until(lambda: server.service.num_running == 1)
            until(lambda: server.service.num_running == server.service.num_taken == 0)

    def test_complete_response(self, endless):
        with running_long(endless) as server:
            with posted(server, CHAT_PATH, {**LONG_REQUEST, "stream": False}):
                until(lambda: server.service.num_running == 1)
            until(lambda: server.service.num_running == server.service.num_taken == 0)
            until(lambda: server.metric("video_llama_requests_total", path=CHAT_PATH, status="499") == 1)

    def test_other_answers_are_not_affected(self, endless):
        with running_long(endless) as server:
            request = {**LONG_REQUEST, "stream": False, "max_tokens": 60}
            expected = httpx.post(f"{server.url}{CHAT_PATH}", json=request, timeout=PATIENCE).json()["choices"]
            with long_answer(server):
                until(lambda: server.service.num_running == 1)
                together = httpx.post(f"{server.url}{CHAT_PATH}", json=request, timeout=PATIENCE).json()["choices"]
                until(lambda: server.service.num_running == 1)
            assert together == expected


@pytest.mark.parametrize(
    ("error", "status", "code", "message"),
    [
        (ApiError(404, "a"), 404, None, "a"),
        (MediaError("clip.mp4 is empty."), 400, "bad_media", "clip.mp4 is empty."),
        (ContextLengthError("Shorten it."), 400, "context_length_exceeded", "Shorten it."),
        (PromptError("The question is empty."), 400, None, "The question is empty."),
        (SchedulerStoppedError("secret"), 503, None, "The server is shutting down. Try again later."),
        (CheckpointError("NaN"), 500, None, "NaN"),
        (RuntimeError("secret"), 500, None, "The server failed to answer. See the server log for details."),
    ],
)
def test_errors_for_clients(error, status, code, message):
    api_error = as_api_error(error)
    assert (api_error.status, api_error.code, str(api_error)) == (status, code, message)


@contextmanager
def no_collector():
    """Disable the garbage collector after a full collection."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def parts_of_requests() -> list[object]:
    """Return all objects in this process that belong to a request."""
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
    ids=["complete", "stream", "bad medium", "too long"],
)
def test_no_reference_cycles(server, urls, medium, question, stream, status):
    messages = ask(question, video={**urls, **BROKEN}[medium])
    request = {"model": "tiny", "messages": messages, "max_tokens": 4, "stream": stream}
    with no_collector():
        others = parts_of_requests()  # from previous tests; kept alive here so that no id is reused
        known = {id(part) for part in others}
        reply = httpx.post(f"{server.url}{CHAT_PATH}", json=request, timeout=PATIENCE)
        assert reply.status_code == status
        until(lambda: all(id(part) in known for part in parts_of_requests()), seconds=20)
