"""The client of the judge: retries, errors, and the cache."""

import pytest

from tests.evaluation.judge_server import running_judge
from video_llama.errors import JudgeError
from video_llama.evaluation import judge_client
from video_llama.evaluation.judge_client import JudgeClient, Reply, ReplyCache, judge_request, request_key

PROMPT = "Reference answer: red\nAnswer of the model: It is red."


@pytest.fixture
def server(monkeypatch):
    pytest.importorskip("httpx")
    monkeypatch.setattr(judge_client, "FIRST_WAIT_SECONDS", 0.001)
    with running_judge() as running:
        yield running


@pytest.fixture
def client(server):
    client = JudgeClient(f"{server.url}/", "secret")
    yield client
    client.close()


def test_request(client, server):
    reply = client.ask(judge_request("judge-1", PROMPT))
    assert (reply.model, reply.is_cached) == ("judge-1", False)
    assert '"score": 5' in reply.text
    [request] = server.requests
    assert (request["model"], request["temperature"]) == ("judge-1", 0)
    assert request["messages"] == [{"role": "user", "content": PROMPT}]
    assert server.keys == ["Bearer secret"]


def test_busy_servers_are_asked_again(client, server):
    server.failures = [(429, {"Retry-After": "0"}), (500, {}), (503, {})]
    assert "score" in client.ask(judge_request("judge-1", PROMPT)).text
    assert len(server.requests) == 4


def test_errors(client, server):
    server.failures = [(401, {})]
    with pytest.raises(JudgeError, match=r"status 401.*Check the URL, the key and the model name"):
        client.ask(judge_request("judge-1", PROMPT))
    assert len(server.requests) == 1
    server.failures = [(500, {})] * 6
    with pytest.raises(JudgeError, match="status 500"):
        client.ask(judge_request("judge-1", PROMPT))
    assert len(server.requests) == 7


def test_no_server(monkeypatch):
    pytest.importorskip("httpx")
    monkeypatch.setattr(judge_client, "FIRST_WAIT_SECONDS", 0.001)
    client = JudgeClient("http://127.0.0.1:1/v1")
    with pytest.raises(JudgeError, match="ConnectError"):
        client.ask(judge_request("judge-1", PROMPT))


def test_cache(tmp_path):
    request = judge_request("judge-1", PROMPT)
    key = request_key("http://x", request)
    assert key != request_key("http://x", judge_request("judge-2", PROMPT))
    with ReplyCache(tmp_path / "cache.jsonl") as cache:
        assert cache.get(key) is None
        cache.put(key, request, Reply("yes", "judge-1-0613", is_cached=False))
    with ReplyCache(tmp_path / "cache.jsonl") as cache:
        assert cache.get(key) == Reply("yes", "judge-1-0613", is_cached=True)
