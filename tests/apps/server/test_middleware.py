"""Host names, API key and body size, which are checked before a body is received."""

import json
import socket

import httpx
import pytest

from tests.apps.server.conftest import CHAT_PATH, PATIENCE, running, until


class TestHost:
    def test_other_names_are_refused(self, server):
        reply = httpx.get(f"{server.url}/v1/models", headers={"Host": "attacker.example"})
        assert reply.status_code == 403
        assert "Use localhost, or set server_names" in reply.json()["error"]["message"]
        assert httpx.get(f"{server.url}/health", headers={"Host": f"localhost:{server.address[1]}"}).status_code == 200

    def test_allowed_name(self, assistant):
        with running(assistant, server_names=("video.example.org",)) as server:
            headers = {"Host": "video.example.org"}
            assert httpx.get(f"{server.url}/v1/models", headers=headers).status_code == 200


@pytest.fixture(scope="module")
def guarded(assistant):
    """A server with a key, and room for two bodies of 5000 bytes."""
    with running(assistant, api_key="s3cret", max_body_bytes=5000, max_total_body_bytes=9000) as server:
        yield server


@pytest.mark.parametrize(
    ("header", "status"),
    [
        ("Bearer s3cret", 200),
        ("bearer s3cret", 200),
        ("BEARER  s3cret", 200),
        ("Basic s3cret", 401),
        ("s3cret", 401),
        ("Bearer", 401),
        ("Bearer s3cret s3cret", 401),
    ],
)
def test_key(guarded, header, status):
    assert httpx.get(f"{guarded.url}/v1/models", headers={"Authorization": header}).status_code == status


def test_key_is_checked_before_the_body_arrives(guarded):
    head = f"POST {CHAT_PATH} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 4000\r\n\r\n{{"
    with socket.create_connection(guarded.address, timeout=PATIENCE) as connection:
        connection.sendall(head.encode())
        assert connection.recv(1000).startswith(b"HTTP/1.1 401 ")


def test_bodies_of_all_requests_are_limited(guarded):
    head = (
        f"POST {CHAT_PATH} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer s3cret\r\n"
        "Content-Type: application/json\r\nContent-Length: 5000\r\n\r\n"
    )
    body = json.dumps({"model": "tiny", "messages": []}).encode()
    headers = {"Authorization": "Bearer s3cret", "Content-Type": "application/json"}
    with socket.create_connection(guarded.address) as first, socket.create_connection(guarded.address) as second:
        for connection in (first, second):
            connection.sendall(head.encode() + b" " * 4495)

        def status() -> int:
            return httpx.post(f"{guarded.url}{CHAT_PATH}", content=body, headers=headers).status_code

        until(lambda: status() == 503)
    until(lambda: status() == 400)
