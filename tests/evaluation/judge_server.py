"""A small OpenAI-compatible server for the tests: it judges by comparing words, and can fail on request."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class JudgeServer(ThreadingHTTPServer):
    """``requests`` are those received; each of ``failures`` (status, headers) answers one request."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.requests: list[dict[str, Any]] = []
        self.keys: list[str | None] = []
        self.failures: list[tuple[int, dict[str, str]]] = []
        self.model_name: str | None = None
        self.replies: list[str] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"


class _Handler(BaseHTTPRequestHandler):
    server: JudgeServer

    def do_POST(self) -> None:
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.requests.append(request)
        self.server.keys.append(self.headers.get("Authorization"))
        if self.path != "/v1/chat/completions":
            return self._send(404, {}, {"error": "not found"})
        if self.server.failures:
            status, headers = self.server.failures.pop(0)
            return self._send(status, headers, {"error": "failed"})
        text = self.server.replies.pop(0) if self.server.replies else self._judged(request["messages"][0]["content"])
        name = self.server.model_name or request["model"]
        return self._send(200, {}, {"model": name, "choices": [{"message": {"content": text}}]})

    def _judged(self, prompt: str) -> str:
        lines = dict(line.split(": ", 1) for line in prompt.splitlines() if line.startswith(("Reference", "Answer")))
        is_right = lines["Reference answer"].lower() in lines["Answer of the model"].lower()
        return f"Here you are: {json.dumps({'correct': is_right, 'score': 5 if is_right else 1})}"

    def _send(self, status: int, headers: dict[str, str], content: dict[str, Any]) -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments: Any) -> None:
        """Print nothing."""


@contextmanager
def running_judge() -> Iterator[JudgeServer]:
    with JudgeServer() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
