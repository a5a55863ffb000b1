"""Ask a model behind an OpenAI-compatible URL, with a cache on disk.

The cache is a JSONL file. Its key is the SHA-256 of the request, so that a changed prompt, model or setting is asked
again.
"""

from __future__ import annotations

import hashlib
import json
import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from video_llama.datasets.row_file import RowFile, complete_rows
from video_llama.errors import JudgeError, MissingExtraError

MAX_ATTEMPTS = 6
FIRST_WAIT_SECONDS = 1.0
"""Wait after the first failed attempt; it doubles each time."""
MAX_WAIT_SECONDS = 60.0
TIMEOUT_SECONDS = 120.0
MAX_REPLY_TOKENS = 256

Request = dict[str, Any]


@dataclass(frozen=True)
class Reply:
    """A reply of the judge. ``model`` is the name that the server gives, such as a dated version."""

    text: str
    model: str
    is_cached: bool


def judge_request(model: str, prompt: str) -> Request:
    """Return the request for one prompt, with temperature 0."""
    messages = [{"role": "user", "content": prompt}]
    return {"model": model, "messages": messages, "temperature": 0, "max_tokens": MAX_REPLY_TOKENS}


def request_key(url: str, request: Request) -> str:
    """Return the key of a request in the cache."""
    text = json.dumps({"url": url, **request}, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


class JudgeClient:
    """A client of ``url``/chat/completions; ``ask`` may be called by several threads.

    Raises MissingExtraError without httpx.
    """

    def __init__(self, url: str, api_key: str | None = None) -> None:
        try:
            import httpx
        except ModuleNotFoundError as error:
            raise MissingExtraError("httpx", "evaluate") from error
        self.url = url.rstrip("/")
        headers = {} if api_key is None else {"Authorization": f"Bearer {api_key}"}
        self._client = httpx.Client(headers=headers, timeout=TIMEOUT_SECONDS)
        self._failures = (httpx.TransportError,)

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def ask(self, request: Request) -> Reply:
        """Return the reply to a request.

        Connection errors and the statuses 429 and 5xx are tried again. Raises JudgeError after MAX_ATTEMPTS, for other
        statuses, and for a reply without text.
        """
        wait = FIRST_WAIT_SECONDS
        for attempt in range(1, MAX_ATTEMPTS + 1):
            try:
                response = self._client.post(f"{self.url}/chat/completions", json=request)
            except self._failures as error:
                problem, retry_after = f"{type(error).__name__}: {error}", None
            else:
                if response.status_code == 200:
                    return self._reply(response)
                problem = f"status {response.status_code}: {response.text[:300]}"
                retry_after = response.headers.get("Retry-After")
                if response.status_code != 429 and response.status_code < 500:
                    break
            if attempt < MAX_ATTEMPTS:
                time.sleep(min(MAX_WAIT_SECONDS, max(wait, _seconds(retry_after))))
                wait *= 2
        raise JudgeError(
            f"{self.url} gives no answer ({problem}). Check the URL, the key and the model name, and run the command "
            "again: replies so far are kept."
        )

    def _reply(self, response: Any) -> Reply:
        try:
            content = response.json()
            text, model = content["choices"][0]["message"]["content"], content.get("model")
        except (ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
            raise JudgeError(f"{self.url} gives a reply without choices. Use an OpenAI-compatible URL.") from error
        if not isinstance(text, str):
            raise JudgeError(f"{self.url} gives a reply without text. Use a model for text.")
        return Reply(text, str(model), is_cached=False)


def _seconds(retry_after: str | None) -> float:
    return float(retry_after) if retry_after is not None and retry_after.isdecimal() else 0.0


class ReplyCache:
    """Replies on disk, by the key of their request. A context manager; only one process can use a file."""

    def __init__(self, path: Path) -> None:
        self._file = RowFile(path, ("key",))
        self._replies = {row["key"]: Reply(row["reply"], row["model"], is_cached=True) for row in complete_rows(path)}

    def __enter__(self) -> ReplyCache:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._file.__exit__(kind, error, at)

    def get(self, key: str) -> Reply | None:
        """Return the reply to a request that was asked before, or None."""
        return self._replies.get(key)

    def put(self, key: str, request: Request, reply: Reply) -> None:
        """Store a new reply with its request."""
        self._file.write([{"key": key, "request": request, "reply": reply.text, "model": reply.model}])
        self._replies[key] = Reply(reply.text, reply.model, is_cached=True)
