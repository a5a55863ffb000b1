"""Response schemas: those of OpenAI's chat completions, and one extension key."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel


class AnswerMessage(BaseModel):
    """The message of an answer."""

    role: Literal["assistant"] = "assistant"
    content: str
    refusal: None = None


class Choice(BaseModel):
    """One answer."""

    index: int
    message: AnswerMessage
    finish_reason: Literal["stop", "length"]
    logprobs: None = None


class PromptDetails(BaseModel):
    """Details of the prompt tokens: how many were read from the prefix cache."""

    cached_tokens: int


class Usage(BaseModel):
    """Token counts: the prompt with its media, counted once, and all answers together."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptDetails

    @staticmethod
    def of(prompt: int, generated: int, cached: int) -> Usage:
        """Return the counts of ``prompt`` tokens, of which ``cached`` were reused, and ``generated`` tokens."""
        details = PromptDetails(cached_tokens=cached)
        total = prompt + generated
        return Usage(
            prompt_tokens=prompt, completion_tokens=generated, total_tokens=total, prompt_tokens_details=details
        )


class TimelinePart(BaseModel):
    """A part of a timeline, in seconds. ``windows`` are the numbers of the windows it is merged from, from 0."""

    start: float
    end: float
    text: str
    windows: list[int]


class TimelineReply(BaseModel):
    """The merged answers about the windows of a medium."""

    duration: float
    """Duration of the medium, in seconds."""
    window: float | None = None
    stride: float | None = None
    scenes: dict[str, Any] | None = None
    """Settings of the scene cuts."""
    entries: list[TimelinePart]
    summary: str | None = None


class ReplyExtension(BaseModel):
    """The extension key of a response: the notice of the weights.

    ``records``, if requested, has one record for each choice, or for each window and the summary; ``timeline`` is the
    timeline of a request with ``window`` or ``scenes``.
    """

    notice: str
    records: list[dict[str, Any]] | None = None
    timeline: TimelineReply | None = None


class ChatCompletion(BaseModel):
    """A chat completion response."""

    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    choices: list[Choice]
    usage: Usage
    video_llama: ReplyExtension | None = None


class ModelInfo(BaseModel):
    """The model served here."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str
    notice: str
    """Provenance and limitations of the weights."""


class ModelList(BaseModel):
    """The list of served models, which contains one model."""

    object: Literal["list"] = "list"
    data: list[ModelInfo]


class Health(BaseModel):
    """Status of the server, with the numbers of running and waiting answers."""

    status: Literal["ok"] = "ok"
    running: int
    waiting: int


class ErrorDetails(BaseModel):
    """An error. ``param`` is the request parameter that caused it."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorBody(BaseModel):
    """The body of every error response."""

    error: ErrorDetails
