"""What protects the server: size, queue, deadline, clients that leave, and an end in good order."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from contextlib import contextmanager

import httpx
import openai
import pytest

from tests.apps.server.conftest import PATIENCE, ask, data_url, posted, running, until
from tests.factories.models import make_folder

QUESTION = [{"role": "user", "content": "What do you see?"}]
PATH = "/v1/chat/completions"
MANY_TOKENS = 20_000
LONG = {"model": "tiny", "messages": QUESTION, "max_tokens": MANY_TOKENS, "stream": True}
"""An answer that is still being made when the next thing of a test happens, from the patient model."""


@pytest.fixture(scope="module")
def patient_path(tmp_path_factory):
    """A model that never ends an answer by itself: all its logits are equal, so that the first id follows each time."""
    from video_llama.chat import read_model_folder, write_model_folder

    path = make_folder(tmp_path_factory.mktemp("models") / "tiny")
    folder = read_model_folder(path)
    folder.model.config.text_config.max_position_embeddings = 2 * MANY_TOKENS
    folder.model.lm_head.weight.data.zero_()
    rest = dict(settings=folder.settings, manifest=folder.manifest)
    write_model_folder(path, folder.model, tokenizer_path=path.with_name("tiny.tokenizer.model"), **rest)
    return path


@pytest.fixture(scope="module")
def patient(patient_path):
    import video_llama

    return video_llama.load(patient_path, device="cpu")


def running_long(patient, **settings):
    """A server that lets answers be as long as they like."""
    return running(patient, max_new_tokens=MANY_TOKENS, **settings)


@contextmanager
def long_answer(server):
    """A stream that has begun; the client leaves it at the end of the block."""
    with httpx.stream("POST", f"{server.url}{PATH}", json=LONG, timeout=PATIENCE) as stream:
        lines = stream.iter_lines()
        next(lines)
        yield lines


@pytest.fixture(scope="module")
def small(assistant):
    """A server that takes little."""
    with running(assistant, max_body_bytes=5000, max_text_characters=1000, max_media=1) as server:
        yield server


class TestBody:
    def test_announced_length(self, small):
        reply = httpx.post(f"{small.url}{PATH}", content=b" " * 5001)
        assert reply.status_code == 413
        assert reply.json()["error"]["message"] == "The request is larger than 5,000 bytes. Send a smaller one."

    def test_length_that_is_not_announced(self, small):
        reply = httpx.post(f"{small.url}{PATH}", content=(b" " * 1000 for _ in range(10)))
        assert reply.status_code == 413

    def test_body_within_the_limit(self, server):
        """20 MB arrive whole: what is refused is the medium, by the media process that read it."""
        request = {"model": "tiny", "messages": ask("What?", video=data_url(bytes(15_000_000)))}
        reply = httpx.post(f"{server.url}{PATH}", json=request, timeout=PATIENCE)
        assert reply.status_code == 400
        assert "cannot be read as video or sound" in reply.json()["error"]["message"]

    @pytest.mark.parametrize(
        "body", [b"", b"{", b"[]", b"\xff\xfe", b'{"model": NaN}', b"[" * 4000, b'"' + b"9" * 4900]
    )
    def test_what_is_no_request(self, small, body):
        reply = httpx.post(f"{small.url}{PATH}", content=body, headers={"Content-Type": "application/json"})
        assert reply.status_code == 400
        assert reply.json()["error"]["type"] == "invalid_request_error"

    def test_text(self, small):
        messages = [{"role": "user", "content": "x" * 1001}]
        with pytest.raises(openai.BadRequestError, match="asks for 1,001 characters; this server takes 1,000"):
            small.client().chat.completions.create(model="tiny", messages=messages)

    def test_media(self, small):
        messages = ask("What?", image="data:,a", video="data:,b")
        with pytest.raises(openai.BadRequestError, match="asks for 2 media; this server takes 1"):
            small.client().chat.completions.create(model="tiny", messages=messages)


class TestQueue:
    def test_full_queue_says_when_to_come_back(self, patient):
        with running_long(patient, max_rows=1, max_queue=1) as server:
            with long_answer(server), long_answer_waiting(server):
                reply = httpx.post(f"{server.url}{PATH}", json={**LONG, "stream": False})
                assert reply.status_code == 429
                assert int(reply.headers["Retry-After"]) >= 1
                assert reply.json()["error"]["code"] == "queue_full"
                with pytest.raises(openai.RateLimitError, match="All 2 places are taken"):
                    server.client().chat.completions.create(model="tiny", messages=QUESTION)
            until(lambda: server.service.num_taken == 0)
            assert server.client().chat.completions.create(model="tiny", messages=QUESTION, max_tokens=1).choices

    def test_choices_count(self, assistant):
        with running(assistant, max_rows=2, max_queue=0) as server, pytest.raises(openai.RateLimitError):
            server.client().chat.completions.create(model="tiny", messages=QUESTION, n=3)


@contextmanager
def long_answer_waiting(server):
    """A second request that waits for the first one's place."""

    def wait():
        with httpx.stream("POST", f"{server.url}{PATH}", json=LONG, timeout=PATIENCE) as stream:
            lines = stream.iter_lines()
            next(lines)
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
def hurried(patient):
    """A server that gives up soon, and not before an answer has begun."""
    with running_long(patient, request_seconds=1.5) as server:
        yield server


class TestDeadline:
    def test_whole_answer(self, hurried):
        reply = httpx.post(f"{hurried.url}{PATH}", json={**LONG, "stream": False}, timeout=PATIENCE)
        assert reply.status_code == 504
        assert "No answer within 1.5 s" in reply.json()["error"]["message"]
        until(lambda: hurried.service.num_taken == hurried.service.num_running == 0)

    def test_stream(self, hurried):
        stream = hurried.client().chat.completions.create(**LONG)
        with pytest.raises(openai.APIError, match=r"No answer within 1\.5 s"):
            list(stream)
        until(lambda: hurried.service.num_taken == hurried.service.num_running == 0)


class TestClientThatLeaves:
    def test_stream(self, patient):
        with running_long(patient) as server:
            with long_answer(server):
                until(lambda: server.service.num_running == 1)
            until(lambda: server.service.num_running == server.service.num_taken == 0)

    def test_whole_answer(self, patient):
        with running_long(patient) as server:
            with posted(server, PATH, {**LONG, "stream": False}):
                until(lambda: server.service.num_running == 1)
            until(lambda: server.service.num_running == server.service.num_taken == 0)
            until(lambda: server.metric("video_llama_requests_total", path=PATH, status="499") == 1)

    def test_others_go_on(self, patient):
        with running_long(patient) as server:
            request = {**LONG, "stream": False, "max_tokens": 60}
            expected = httpx.post(f"{server.url}{PATH}", json=request, timeout=PATIENCE).json()["choices"]
            with long_answer(server):
                until(lambda: server.service.num_running == 1)
                together = httpx.post(f"{server.url}{PATH}", json=request, timeout=PATIENCE).json()["choices"]
                until(lambda: server.service.num_running == 1)
            assert together == expected


class TestEnd:
    """`video-llama serve` as a process of its own, told to stop by a signal."""

    @pytest.fixture
    def process(self, patient_path):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        command = [sys.executable, "-m", "video_llama", "serve", "--model", str(patient_path), "--port", str(port)]
        environment = {**os.environ, "VIDEO_LLAMA_API_KEY": "s3cret"}
        limits = ["--device", "cpu", "--set", "shutdown_seconds=100", "--set", f"max_new_tokens={MANY_TOKENS}"]
        process = subprocess.Popen([*command, *limits], env=environment, stderr=subprocess.PIPE, text=True)
        url = f"http://127.0.0.1:{port}"
        try:
            until(lambda: answers(url) or process.poll() is not None, seconds=240)
            yield process, url
        finally:
            process.kill()
            process.wait()
            process.stderr.close()

    def test_running_answer_is_finished_and_new_ones_refused(self, process):
        process, url = process
        headers = {"Authorization": "Bearer s3cret"}
        request = {**LONG, "max_tokens": 600}
        with httpx.stream("POST", f"{url}{PATH}", json=request, headers=headers, timeout=PATIENCE) as stream:
            lines = stream.iter_lines()
            next(lines)
            process.send_signal(signal.SIGTERM)
            until(lambda: not answers(url))
            with pytest.raises(httpx.ConnectError):
                httpx.post(f"{url}{PATH}", json=request, headers=headers)
            events = [line.removeprefix("data: ") for line in lines if line]
        assert events[-1] == "[DONE]"
        assert json.loads(events[-2])["choices"][0]["finish_reason"] == "length"
        assert process.wait(timeout=PATIENCE) == -signal.SIGTERM
        assert "noise" in process.stderr.read()


def answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}/health").status_code == 200
    except httpx.TransportError:
        return False


class TestGraceThatRunsOut:
    """Answers that are still running when the time to end has passed are told so."""

    @pytest.mark.parametrize("stream", [False, True])
    def test_client_is_told(self, patient, stream):
        replies = []
        with running_long(patient, shutdown_seconds=0) as server:
            request = {**LONG, "n": 8, "stream": stream}
            thread = threading.Thread(
                target=lambda: replies.append(httpx.post(f"{server.url}{PATH}", json=request, timeout=PATIENCE))
            )
            thread.start()
            until(lambda: server.service.num_running > 0)
        thread.join()
        assert replies[0].status_code == (200 if stream else 503)
        assert "The server is shutting down. Try again later." in replies[0].text
