"""Host names and heartbeats of the running page."""

import time

import httpx
import pytest

pytest.importorskip("gradio", reason="gradio is not installed: pip install '.[demo]'")

from video_llama.apps.demo.page import MAX_QUEUE
from video_llama.apps.demo.visitors import MAX_ABSENT

PATIENCE = 60


def test_other_host_names_are_refused(demo):
    assert httpx.get(demo.url, timeout=PATIENCE).status_code == 200
    reply = httpx.get(demo.url, headers={"Host": "attacker.example"}, timeout=PATIENCE)
    assert (reply.status_code, reply.text) == (403, "The Host header names another host. Use localhost.")


def test_heartbeat(demo):
    open_pages = demo.visitors._open_pages
    with httpx.stream("GET", f"{demo.url}gradio_api/heartbeat/me", timeout=PATIENCE) as stream:
        next(stream.iter_lines())
        assert open_pages["me"] == 1
    end = time.monotonic() + PATIENCE
    while "me" in open_pages and time.monotonic() < end:
        time.sleep(0.1)
    assert "me" not in open_pages


def test_queue_is_limited(demo):
    config = httpx.get(f"{demo.url}config", timeout=PATIENCE).json()
    [fn_index] = [dependency["id"] for dependency in config["dependencies"] if dependency["api_name"] == "start_over"]
    statuses = []
    with demo.visitors._lock:  # events that need the model wait
        for number in range(MAX_QUEUE + 10):
            event = {"data": [], "fn_index": fn_index, "session_hash": f"queue {number}"}
            statuses.append(httpx.post(f"{demo.url}gradio_api/queue/join", json=event, timeout=PATIENCE).status_code)
    assert set(statuses) == {200, 503}
    end = time.monotonic() + PATIENCE
    while httpx.get(f"{demo.url}gradio_api/queue/status", timeout=PATIENCE).json()["queue_size"]:
        assert time.monotonic() < end
        time.sleep(0.1)
    assert len(demo.visitors) <= MAX_ABSENT
