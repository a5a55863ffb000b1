"""Slow clients, too many connections, and clients that close one side of a connection."""

import json
import socket
import time
from contextlib import ExitStack, suppress

import httpx
import pytest

from tests.apps.server.conftest import CHAT_PATH, LONG_REQUEST, PATIENCE, running, running_long, until
from video_llama.apps.server.connections import client_group, usable_connections

HEAD = f"POST {CHAT_PATH} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
HALF_HEADERS = HEAD.encode()
HALF_BODY = f"{HEAD}Content-Length: 1000\r\n\r\n{{".encode()
REQUEST = {"model": "tiny", "messages": [{"role": "user", "content": "What do you see?"}], "max_tokens": 4}


def message(request: dict, version: str = "1.1") -> bytes:
    body = json.dumps(request)
    return f"{HEAD.replace('1.1', version)}Content-Length: {len(body)}\r\n\r\n{body}".encode()


def received(connection: socket.socket) -> bytes:
    """Return everything that the server sends until it closes the connection."""
    data = b""
    while chunk := connection.recv(2**16):
        data += chunk
    return data


@pytest.fixture(scope="module")
def strict(assistant):
    """A server with short time limits and few connections."""
    limits = dict(header_seconds=0.5, body_seconds=0.5, max_connections_per_address=10)
    with running(assistant, **limits) as server:
        yield server


class TestSlowClient:
    @pytest.mark.parametrize("sent", [b"GET", HALF_HEADERS, HALF_BODY])
    def test_gets_408(self, strict, sent):
        with socket.create_connection(strict.address, timeout=PATIENCE) as connection:
            connection.sendall(sent)
            reply = received(connection)
        assert reply.startswith(b"HTTP/1.1 408 ")
        assert json.loads(reply.partition(b"\r\n\r\n")[2])["error"]["type"] == "timeout_error"

    def test_is_closed_if_it_sends_nothing(self, strict):
        with socket.create_connection(strict.address, timeout=PATIENCE) as connection:
            assert received(connection) == b""

    @pytest.mark.parametrize("start", [HEAD.encode(), HALF_BODY])
    def test_single_bytes_do_not_extend_the_time(self, strict, start):
        with socket.create_connection(strict.address, timeout=PATIENCE) as connection:
            connection.sendall(start)
            connection.settimeout(0.05)
            reply, end = None, time.monotonic() + 20
            while reply is None and time.monotonic() < end:
                connection.sendall(b"x")
                with suppress(TimeoutError):
                    reply = connection.recv(1000)
        assert reply.startswith(b"HTTP/1.1 408 ")

    def test_second_request_of_a_connection(self, strict):
        with socket.create_connection(strict.address, timeout=PATIENCE) as connection:
            connection.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\nGET /hea")
            reply = received(connection)
        assert reply.startswith(b"HTTP/1.1 200 ")
        assert b"HTTP/1.1 408 " in reply


class TestManyConnections:
    @pytest.mark.parametrize("sent", [b"", HALF_HEADERS, HALF_BODY])
    def test_half_sent_requests_do_not_exclude_others(self, assistant, sent):
        with running(assistant, max_connections_per_address=10) as server, ExitStack() as stack:
            for _ in range(60):
                connection = stack.enter_context(socket.create_connection(server.address, timeout=PATIENCE))
                connection.sendall(sent)
            start = time.monotonic()
            assert httpx.get(f"{server.url}/health", timeout=PATIENCE).status_code == 200
            assert time.monotonic() - start < 5  # below header_seconds

    def test_running_answers_are_not_closed(self, endless):
        with running_long(endless, max_connections_per_address=2) as server, ExitStack() as stack:
            running_answers = [stack.enter_context(socket.create_connection(server.address)) for _ in range(2)]
            for connection in running_answers:
                connection.sendall(message(LONG_REQUEST))
            until(lambda: server.service.num_running == 2)
            reply = httpx.get(f"{server.url}/health", timeout=PATIENCE)
            assert reply.status_code == 503
            assert "too many connections" in reply.json()["error"]["message"]
            assert server.service.num_running == 2


class TestHalfClosedClient:
    @pytest.mark.parametrize("version", ["1.0", "1.1"])
    @pytest.mark.parametrize("stream", [False, True])
    def test_gets_its_answer(self, server, version, stream):
        with socket.create_connection(server.address, timeout=PATIENCE) as connection:
            connection.sendall(message({**REQUEST, "stream": stream}, version))
            connection.shutdown(socket.SHUT_WR)
            reply = received(connection)
        assert b"HTTP/1.1 200 OK" in reply
        assert b'"finish_reason"' in reply

    @pytest.mark.parametrize("stream", [False, True])
    def test_long_answer_ends_when_it_has_gone(self, endless, stream):
        with running_long(endless) as server:
            with socket.create_connection(server.address, timeout=PATIENCE) as connection:
                connection.sendall(message({**LONG_REQUEST, "stream": stream}))
                connection.shutdown(socket.SHUT_WR)
                until(lambda: server.service.num_running == 1)
                time.sleep(0.6)
                assert server.service.num_running == 1
            until(lambda: server.service.num_running == server.service.num_taken == 0)

    def test_incomplete_request(self, server):
        with socket.create_connection(server.address, timeout=PATIENCE) as connection:
            connection.sendall(HALF_BODY)
            connection.shutdown(socket.SHUT_WR)
            received(connection)


def test_body_in_single_bytes_is_refused(server):
    """Parsing 20,000 chunks of one byte takes seconds."""
    head = f"{HEAD}Transfer-Encoding: chunked\r\n\r\n".encode()
    with socket.create_connection(server.address, timeout=PATIENCE) as connection:
        connection.sendall(head + b"1\r\n \r\n" * 10_001)
        assert connection.recv(1000).startswith(b"HTTP/1.1 400 ")


def test_body_in_chunks(server):
    body = json.dumps(REQUEST).encode()
    parts = (body[start : start + 3] for start in range(0, len(body), 3))
    headers = {"Content-Type": "application/json"}
    assert httpx.post(f"{server.url}{CHAT_PATH}", content=parts, headers=headers, timeout=PATIENCE).status_code == 200


def test_what_is_not_http(server):
    with socket.create_connection(server.address, timeout=PATIENCE) as connection:
        connection.sendall(b"\x16\x03\x01 TLS\r\n\r\n")
        reply = received(connection)
    assert reply.startswith(b"HTTP/1.1 400 ")
    assert json.loads(reply.partition(b"\r\n\r\n")[2])["error"]["type"] == "invalid_request_error"


def test_groups_of_clients():
    assert client_group("10.0.0.1") != client_group("10.0.0.2")
    assert client_group("2001:db8::1") == client_group("2001:db8::2") != client_group("2001:db8:0:1::1")
    assert client_group("::ffff:10.0.0.1") != client_group("::ffff:10.0.0.2")
    assert client_group("fe80::1%eth0") == client_group("fe80::2%eth0")
    assert client_group("unix") == "unix"


def test_connections_leave_file_descriptors_free():
    assert usable_connections(3) <= 8
    assert usable_connections(10**9) < 10**9
