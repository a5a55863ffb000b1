"""A request's JSON in, a question ready for the model out: checks, media options, the conversation, the decoding."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from video_llama.apps.server.errors import ApiError
from video_llama.apps.server.protocol import (
    AssistantMessage,
    ChatRequest,
    MediaPart,
    SystemMessage,
    TextPart,
    UserMessage,
)
from video_llama.apps.server.settings import ServerSettings
from video_llama.chat.decoding import Decoding
from video_llama.chat.engine import EncodedMedium, Engine, PreparedTurn
from video_llama.chat.messages import message_for
from video_llama.conversation import Conversation
from video_llama.processors import FrameSampling
from video_llama.processors.medium import MediaOptions

LEAST_TEMPERATURE = 0.001
"""Logits divided by less may leave the range of float32; the likeliest token has all the probability long before."""


def check_request(request: ChatRequest, settings: ServerSettings, model: str) -> None:
    """Raise ApiError for what this server does not serve, before anything is fetched or decoded."""
    if request.model != model:
        message = f"There is no model {request.model!r} here. This server has {model!r}."
        raise ApiError(404, message, code="model_not_found", param="model")
    last = request.messages[-1]
    if not isinstance(last, UserMessage) or not _text(last.content).strip():
        raise ApiError(400, "The last message must be a user's, with a question in words.", param="messages")
    if any(isinstance(message, SystemMessage) for message in request.messages[1:]):
        raise ApiError(400, "Only the first message can be a system message.", param="messages")
    _at_most(
        "messages", "characters", sum(len(_text(m.content)) for m in request.messages), settings.max_text_characters
    )
    _at_most("messages", "media", len(media_parts(request)), settings.max_media)
    _at_most("n", "choices", request.n, settings.max_choices)
    _at_most("video_llama.num_beams", "beams", request.video_llama.num_beams, settings.max_beams)
    if request.stream and request.video_llama.num_beams > 1:
        message = (
            "A search with beams ends with the whole answer and cannot be streamed. Leave out stream or num_beams."
        )
        raise ApiError(400, message, param="stream")
    _at_most("max_tokens", "tokens", asked_tokens(request) or 0, settings.max_new_tokens)


def _at_most(param: str, unit: str, asked: int, limit: int) -> None:
    if asked > limit:
        raise ApiError(400, f"{param} asks for {asked:,} {unit}; this server takes {limit:,}.", param=param)


def asked_tokens(request: ChatRequest) -> int | None:
    """The longest answer that is asked for, by either name."""
    return request.max_tokens if request.max_completion_tokens is None else request.max_completion_tokens


def media_parts(request: ChatRequest) -> list[tuple[str, MediaPart]]:
    """Every medium of a request with its place in it, in prompt order."""
    return [
        (f"messages[{number}].content[{place}]", part)
        for number, message in enumerate(request.messages)
        for place, part in _media_of(message)
    ]


def _media_of(message: UserMessage | AssistantMessage | SystemMessage) -> Iterator[tuple[int, MediaPart]]:
    if isinstance(message, UserMessage) and not isinstance(message.content, str):
        for place, part in enumerate(message.content):
            if not isinstance(part, TextPart):
                yield place, part


def _text(content: str | Sequence[TextPart | MediaPart]) -> str:
    """A message's words, its text parts on lines of their own."""
    if isinstance(content, str):
        return content
    return "\n".join(part.text for part in content if isinstance(part, TextPart))


def media_options(request: ChatRequest, num_frames: int) -> MediaOptions:
    """How the request's media are read. Raises ApiError where its options exclude each other or cannot be."""
    asked = request.video_llama
    given = [name for name in ("frames", "fps", "times") if getattr(asked, name) is not None]
    if len(given) > 1:
        raise ApiError(400, f"{' and '.join(given)} are given. Give one of them.", param="video_llama")
    times = None if asked.times is None else tuple(asked.times)
    try:
        sampling = FrameSampling(asked.frames or num_frames, asked.fps, times, asked.start, asked.end)
        return MediaOptions(sampling, asked.no_audio, asked.require_audio)
    except ValueError as error:
        raise ApiError(400, str(error), param="video_llama") from error


def decodings(request: ChatRequest, engine: Engine, settings: ServerSettings) -> list[Decoding]:
    """One per choice. They differ in their seeds, which are drawn where none is given."""
    is_cold = request.temperature is not None and request.temperature < LEAST_TEMPERATURE
    decoding = Decoding(
        max_new_tokens=asked_tokens(request),
        temperature=0.0 if is_cold else request.temperature,
        top_p=request.top_p,
        top_k=request.video_llama.top_k,
        seed=request.seed,
        num_beams=request.video_llama.num_beams,
        repetition_penalty=request.video_llama.repetition_penalty,
    ).resolved(engine.context_length)
    assert decoding.max_new_tokens is not None, "resolved() sets it"
    decoding = replace(decoding, max_new_tokens=min(decoding.max_new_tokens, settings.max_new_tokens))
    seed = decoding.seed
    return [decoding if seed is None else replace(decoding, seed=seed + number) for number in range(request.n)]


def prepare_turn(
    request: ChatRequest, engine: Engine, media: Sequence[EncodedMedium], decoding: Decoding
) -> PreparedTurn:
    """The question with what was said before it. ``media`` are those of ``media_parts``, in their order.

    Raises PromptError for a conversation that cannot be put before the model, ApiError for an answer as long as the
    whole context.
    """
    first = request.messages[0]
    system = _text(first.content) if isinstance(first, SystemMessage) else None
    conversation, waiting = Conversation(engine.template, system), iter(media)
    for message in request.messages[:-1]:
        if isinstance(message, UserMessage):
            _show(conversation, message, waiting)
            conversation.ask(_text(message.content))
        elif isinstance(message, AssistantMessage):
            conversation.answer(_text(message.content))
    _show(conversation, request.messages[-1], waiting)
    try:
        return engine.turn(conversation, media, _text(request.messages[-1].content), decoding)
    except ValueError as error:
        raise ApiError(400, str(error), param="max_tokens") from error


def _show(
    conversation: Conversation,
    message: UserMessage | AssistantMessage | SystemMessage,
    waiting: Iterator[EncodedMedium],
) -> None:
    for _ in _media_of(message):
        conversation.add_media(message_for(next(waiting).read))
