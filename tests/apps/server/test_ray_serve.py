"""Two replicas of Ray Serve with real Ray: the answers of the local server, and one replica killed under load."""

import os
import signal
import socket
import threading
import time
from contextlib import suppress
from pathlib import Path

import httpx
import pytest

from tests.apps.server.conftest import CHAT_PATH
from tests.cli.conftest import start
from video_llama.apps.server.ray_serve import ReplicaOptions


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"replicas": 0}, "replicas is 0"),
        ({"replicas": 3, "max_replicas": 2}, r"max_replicas is 2, less than replicas \(3\)"),
        ({"num_gpus": -1.0}, "must not be negative"),
    ],
)
def test_invalid_options(values, message):
    with pytest.raises(ValueError, match=message):
        ReplicaOptions(**values)


@pytest.fixture(scope="module")
def url(model_path):
    """The address of a server with two replicas, started by the command."""
    pytest.importorskip("ray", reason="ray is not installed: pip install '.[scale]'")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    options = ("--engine", "ray", "--replicas", 2, "--model", model_path, "--device", "cpu", "--port", port)
    process = start("serve", *options)
    line = process.stderr.readline()
    while line and not line.startswith("Serving"):
        line = process.stderr.readline()
    assert line, process.stderr.read()
    yield f"http://127.0.0.1:{port}"
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=240)
    assert process.returncode == 0


def replicas():
    """Return the ids of the replicas' processes. Ray puts the class into the name of the process."""
    found = []
    for folder in Path("/proc").iterdir():
        with suppress(OSError):
            if folder.name.isdigit() and "ray::ServeReplica:video-llama" in (folder / "cmdline").read_text():
                found.append(int(folder.name))
    return found


def request(urls, max_tokens=8):
    content = [{"type": "video_url", "video_url": {"url": urls["video"]}}, {"type": "text", "text": "What do you see?"}]
    return {"model": "tiny", "messages": [{"role": "user", "content": content}], "max_tokens": max_tokens}


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_application_is_that_of_the_local_server(url, urls, assistant, clips):
    with httpx.Client(base_url=url, timeout=120) as client:
        assert client.get("/v1/models").json()["data"][0]["id"] == "tiny"
        answer = client.post(CHAT_PATH, json=request(urls)).json()["choices"][0]["message"]["content"]
        assert answer == assistant.chat(str(clips["video"])).ask("What do you see?", max_new_tokens=8).text
        refused = client.post(CHAT_PATH, json={"model": "other", "messages": []})
        assert (refused.status_code, "error" in refused.json()) == (400, True)
        assert client.get("/health", headers={"Host": "evil.example"}).status_code == 403


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_killed_replica_loses_only_its_own_requests(url, urls):
    """Six clients send requests one after another. Those that were sent after the kill are all answered; those that
    were being answered by the killed replica get status 5xx."""
    results = []
    ended = threading.Event()

    def client():
        with httpx.Client(base_url=url, timeout=120) as connection:
            while not ended.is_set():
                began = time.monotonic()
                response = connection.post(CHAT_PATH, json=request(urls, 64))
                results.append((began, time.monotonic(), response.status_code, response.text))

    clients = [threading.Thread(target=client) for _ in range(6)]
    for each in clients:
        each.start()
    until(lambda: len(results) >= 12)
    first, second = replicas()
    killed_at = time.monotonic()
    os.kill(first, signal.SIGKILL)
    until(lambda: sum(began > killed_at for began, *_ in results) >= 40)
    until(lambda: len(replicas()) == 2 and second in replicas())
    ended.set()
    for each in clients:
        each.join()
    lost = [result for result in results if result[2] != 200]
    assert {status // 100 for _, _, status, _ in lost} <= {5}
    assert all(text for *_, text in lost)
    assert all(began < killed_at < finished for began, finished, *_ in lost), "a request was lost that was not in it"
    assert len(lost) <= len(clients)


def until(condition, seconds=300):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"not within {seconds} s"
        time.sleep(0.05)
