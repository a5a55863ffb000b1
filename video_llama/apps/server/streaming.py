"""Response bodies: a complete chat completion, or server-sent events with chunks in the format of the OpenAI API."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import AsyncIterator
from typing import Any

from video_llama.apps.server.errors import ApiError
from video_llama.apps.server.protocol import EXTENSION, ChatRequest
from video_llama.apps.server.replies import AnswerMessage, ChatCompletion, Choice, ReplyExtension, Usage
from video_llama.apps.server.scheduler import FinishedAnswer
from video_llama.apps.server.service import PendingAnswers

DONE_EVENT = "data: [DONE]\n\n"


class ReplyWriter:
    """Writes the response to one request. ``notice`` describes the weights."""

    def __init__(self, request: ChatRequest, notice: str) -> None:
        self._request, self._notice = request, notice
        self._id, self._created = f"chatcmpl-{uuid.uuid4().hex}", int(time.time())
        self._finished: dict[int, FinishedAnswer] = {}

    async def completion(self, answers: PendingAnswers) -> ChatCompletion:
        """Wait for all answers and close them. Raises ApiError if one fails."""
        try:
            async for index, event in answers.events():
                if isinstance(event, FinishedAnswer):
                    self._finished[index] = event
        finally:
            answers.close()
        choices = [
            Choice(index=index, message=AnswerMessage(content=answer.text), finish_reason=answer.reason)
            for index, answer in sorted(self._finished.items())
        ]
        return ChatCompletion(
            id=self._id,
            created=self._created,
            model=self._request.model,
            choices=choices,
            usage=self._usage(),
            video_llama=self._extension() if self._request.video_llama.record else None,
        )

    async def events(self, answers: PendingAnswers) -> AsyncIterator[str]:
        """Yield server-sent events. An error is sent as an event, since the HTTP status has already been sent."""
        try:
            for index in range(self._request.n):
                yield self._chunk(index, {"role": "assistant", "content": ""})
            async for index, event in answers.events():
                if isinstance(event, FinishedAnswer):
                    self._finished[index] = event
                    yield self._chunk(index, {}, event.reason)
                else:
                    yield self._chunk(index, {"content": event})
            for last in self._final_events():
                yield last
        except ApiError as error:
            yield _event(error.body())
        finally:
            answers.close()
        yield DONE_EVENT

    def _final_events(self) -> list[str]:
        """Return the final events: token counts and records, if requested."""
        request = self._request
        fields: dict[str, Any] = {}
        if request.stream_options is not None and request.stream_options.include_usage:
            fields["usage"] = self._usage().model_dump()
        if request.video_llama.record:
            fields[EXTENSION] = self._extension().model_dump()
        return [self._line([], fields)] if fields else []

    def _chunk(self, index: int, delta: dict[str, Any], finish_reason: str | None = None) -> str:
        choice = {"index": index, "delta": delta, "finish_reason": finish_reason, "logprobs": None}
        return self._line([choice], {})

    def _line(self, choices: list[dict[str, Any]], fields: dict[str, Any]) -> str:
        head = {"id": self._id, "object": "chat.completion.chunk", "created": self._created}
        return _event({**head, "model": self._request.model, "choices": choices, **fields})

    def _usage(self) -> Usage:
        counts = [answer.record.tokens for _, answer in sorted(self._finished.items())]
        return Usage.of(counts[0]["prompt"], sum(count["generated"] for count in counts), counts[0]["reused"])

    def _extension(self) -> ReplyExtension:
        """Return the notice and the records, without the path of the weights on the server."""
        records = [answer.record.public_dict() for _, answer in sorted(self._finished.items())]
        return ReplyExtension(notice=self._notice, records=records)


def _event(fields: dict[str, Any]) -> str:
    return f"data: {json.dumps(fields, ensure_ascii=False, allow_nan=False)}\n\n"
