"""Graceful shutdown: running answers finish, and answers that exceed the grace period end with an error."""

import errno
import json
import os
import signal
import socket
import subprocess
import sys
import threading

import httpx
import pytest

from tests.apps.server.conftest import CHAT_PATH, LONG_REQUEST, MANY_TOKENS, PATIENCE, running, running_long, until


class TestSignal:
    """``video-llama serve`` in a process of its own, stopped by a signal."""

    @pytest.fixture
    def process(self, endless_path):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        command = [sys.executable, "-m", "video_llama", "serve", "--model", str(endless_path), "--port", str(port)]
        environment = {**os.environ, "VIDEO_LLAMA_API_KEY": "s3cret"}
        limits = ["--device", "cpu", "--set", "shutdown_seconds=100", "--set", f"max_new_tokens={MANY_TOKENS}"]
        process = subprocess.Popen([*command, *limits], env=environment, stderr=subprocess.PIPE, text=True)
        url = f"http://127.0.0.1:{port}"
        try:
            until(lambda: is_healthy(url) or process.poll() is not None, seconds=240)
            yield process, url
        finally:
            process.kill()
            process.wait()
            process.stderr.close()

    def test_running_answer_finishes_and_new_requests_are_refused(self, process):
        process, url = process
        headers = {"Authorization": "Bearer s3cret"}
        request = {**LONG_REQUEST, "max_tokens": 600}
        with httpx.stream("POST", f"{url}{CHAT_PATH}", json=request, headers=headers, timeout=PATIENCE) as stream:
            lines = stream.iter_lines()
            next(lines)
            process.send_signal(signal.SIGTERM)
            until(lambda: not is_healthy(url))
            with pytest.raises(httpx.ConnectError):
                httpx.post(f"{url}{CHAT_PATH}", json=request, headers=headers)
            events = [line.removeprefix("data: ") for line in lines if line]
        assert events[-1] == "[DONE]"
        assert json.loads(events[-2])["choices"][0]["finish_reason"] == "length"
        assert process.wait(timeout=PATIENCE) == -signal.SIGTERM
        assert "noise" in process.stderr.read()


def is_healthy(url: str) -> bool:
    try:
        return httpx.get(f"{url}/health").status_code == 200
    except httpx.TransportError:
        return False


@pytest.mark.parametrize("stream", [False, True])
def test_answers_after_the_grace_period_end_with_an_error(endless, stream):
    replies = []
    with running_long(endless, shutdown_seconds=0) as server:
        request = {**LONG_REQUEST, "n": 8, "stream": stream}
        thread = threading.Thread(
            target=lambda: replies.append(httpx.post(f"{server.url}{CHAT_PATH}", json=request, timeout=PATIENCE))
        )
        thread.start()
        until(lambda: server.service.num_running > 0)
    thread.join()
    assert replies[0].status_code == (200 if stream else 503)
    assert "The server is shutting down. Try again later." in replies[0].text


def test_lack_of_file_descriptors_is_logged_once(assistant, caplog):
    with running(assistant) as server:
        loop = server.server.servers[0].get_loop()
        failure = {"message": "socket.accept() out of system resource", "exception": OSError(errno.EMFILE, "Too many")}
        for _ in range(100):
            loop.call_soon_threadsafe(loop.call_exception_handler, failure)
        until(lambda: is_healthy(server.url) and caplog.messages != [])
    assert caplog.messages == ["No connection can be accepted (Too many). Raise the limit: ulimit -n"]


def test_requests_that_are_not_http_are_not_logged(assistant, caplog):
    with running(assistant) as server:
        for _ in range(10):
            with socket.create_connection(server.address, timeout=PATIENCE) as connection:
                connection.sendall(b"no http\r\n\r\n")
                assert connection.recv(100).startswith(b"HTTP/1.1 400")
    assert caplog.messages == []
