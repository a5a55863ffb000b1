"""Conversion of a request into prepared turns: limits, media options, decoding settings and the conversation."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from video_llama.apps.server.errors import ApiError
from video_llama.apps.server.protocol import (
    AssistantMessage,
    ChatRequest,
    InputAudioPart,
    MediaPart,
    RefusalPart,
    SystemMessage,
    TextPart,
    UserMessage,
)
from video_llama.apps.server.settings import ServerSettings
from video_llama.chat.decoding import Decoding
from video_llama.chat.engine import EncodedMedium, Engine, PreparedTurn
from video_llama.chat.messages import message_for
from video_llama.conversation import Conversation
from video_llama.processors.medium import MediaOptions
from video_llama.processors.sampling import FrameSampling

MIN_TEMPERATURE = 0.001
"""Lower temperatures decode greedily: dividing logits by them can overflow float32."""


def check_model(name: str, served: str) -> None:
    """Raise ApiError if ``name`` is not the served model."""
    if name != served:
        message = f"The model {name!r} does not exist. Use {served!r}."
        raise ApiError(404, message, code="model_not_found", param="model")


def check_request(request: ChatRequest, settings: ServerSettings, model: str) -> None:
    """Raise ApiError if the request is for another model, exceeds a limit or has no question."""
    check_model(request.model, model)
    last = request.messages[-1]
    if not isinstance(last, UserMessage) or not _text(last.content).strip():
        raise ApiError(400, "The last message must have the role user and contain text.", param="messages")
    _check_order(request)
    num_characters = sum(len(_text(message.content)) for message in request.messages)
    _check_limit("messages", "characters", num_characters, settings.max_text_characters)
    _check_limit("messages", "media", len(media_parts(request)), settings.max_media)
    _check_limit("n", "choices", request.n, settings.max_choices)
    _check_limit("video_llama.num_beams", "beams", request.video_llama.num_beams, settings.max_beams)
    if request.stream and request.video_llama.num_beams > 1:
        raise ApiError(400, "Beam search cannot be streamed. Leave out stream or num_beams.", param="stream")
    check_timeline(request)
    _check_limit("max_tokens", "tokens", requested_tokens(request) or 0, settings.max_new_tokens)


def check_timeline(request: ChatRequest) -> None:
    """Raise ApiError for parameters that cannot be combined with a timeline, or that need one."""
    extension = request.video_llama
    if extension.scenes and extension.stride is not None:
        raise ApiError(400, "stride cannot be combined with scenes. Leave one out.", param="video_llama.stride")
    if not extension.is_timeline:
        for name in ("stride", "summary"):
            if getattr(extension, name):
                raise ApiError(
                    400, f"{name} applies to a timeline. Give window or scenes too.", param=f"video_llama.{name}"
                )
        return
    for param, is_given in (
        ("stream", request.stream),
        ("n", request.n > 1),
        ("video_llama.num_beams", extension.num_beams > 1),
        ("video_llama.times", extension.times is not None),
    ):
        if is_given:
            raise ApiError(
                400, f"{param} cannot be combined with a timeline. Leave it out, or window and scenes.", param=param
            )
    if len(media_parts(request)) != 1:
        message = (
            f"A timeline is about one video or sound, but the request has {len(media_parts(request))} media. Send one."
        )
        raise ApiError(400, message, param="messages")


def _check_order(request: ChatRequest) -> None:
    """Raise ApiError for a system message after the first, or an answer that does not follow a question."""
    previous: object = None
    for index, message in enumerate(request.messages):
        location = f"messages[{index}]"
        if isinstance(message, SystemMessage) and index > 0:
            raise ApiError(400, f"{location}: Only the first message can be a system message.", param=location)
        if isinstance(message, AssistantMessage) and not isinstance(previous, UserMessage):
            text = "A message of the assistant must follow a message of the user"
            raise ApiError(400, f"{location}: {text}. Insert the question.", param=location)
        previous = message


def _check_limit(param: str, unit: str, value: int, limit: int) -> None:
    if value > limit:
        message = f"{param}: {value:,} {unit} requested, but the limit of this server is {limit:,}. Request fewer."
        raise ApiError(400, message, param=param)


def requested_tokens(request: ChatRequest) -> int | None:
    """Return ``max_completion_tokens``, or ``max_tokens`` if it is not given."""
    return request.max_tokens if request.max_completion_tokens is None else request.max_completion_tokens


def media_parts(request: ChatRequest) -> list[tuple[str, MediaPart]]:
    """Return the media parts of a request in prompt order, with locations such as ``messages[0].content[1]``."""
    return [
        (f"messages[{message_index}].content[{part_index}]", part)
        for message_index, message in enumerate(request.messages)
        for part_index, part in _media_of(message)
    ]


def field_of(location: str, part: MediaPart) -> str:
    """Return the location of the field with the content of a part: ``messages[0].content[1].image_url``."""
    return f"{location}.{'input_audio.data' if isinstance(part, InputAudioPart) else part.type}"


def _media_of(message: UserMessage | AssistantMessage | SystemMessage) -> Iterator[tuple[int, MediaPart]]:
    if isinstance(message, UserMessage) and not isinstance(message.content, str):
        for index, part in enumerate(message.content):
            if not isinstance(part, TextPart):
                yield index, part


def _text(content: str | Sequence[TextPart | RefusalPart | MediaPart]) -> str:
    """Return the text of a message, with its text parts on separate lines."""
    if isinstance(content, str):
        return content
    texts = (part.refusal if isinstance(part, RefusalPart) else getattr(part, "text", None) for part in content)
    return "\n".join(text for text in texts if text is not None)


def media_options(request: ChatRequest, num_frames: int) -> MediaOptions:
    """Return the options for reading the media. Raises ApiError for invalid or mutually exclusive options.

    ``num_frames`` is the default number of frames.
    """
    extension = request.video_llama
    given = [name for name in ("frames", "fps", "times") if getattr(extension, name) is not None]
    if len(given) > 1:
        raise ApiError(400, f"{' and '.join(given)} cannot be combined. Give one of them.", param="video_llama")
    times = None if extension.times is None else tuple(extension.times)
    try:
        sampling = FrameSampling(extension.frames or num_frames, extension.fps, times, extension.start, extension.end)
        return MediaOptions(sampling, extension.no_audio, extension.require_audio)
    except ValueError as error:
        raise ApiError(400, str(error), param="video_llama") from error


def decodings(request: ChatRequest, engine: Engine, settings: ServerSettings) -> list[Decoding]:
    """Return the decoding settings of each choice. They differ only in their seeds, which are random by default."""
    temperature = request.temperature
    if temperature is not None and temperature < MIN_TEMPERATURE:
        temperature = 0.0
    decoding = Decoding(
        max_new_tokens=requested_tokens(request),
        temperature=temperature,
        top_p=request.top_p,
        top_k=request.video_llama.top_k,
        seed=request.seed,
        num_beams=request.video_llama.num_beams,
        repetition_penalty=request.video_llama.repetition_penalty,
    ).resolved(engine.context_length)
    assert decoding.max_new_tokens is not None, "set by resolved()"
    decoding = replace(decoding, max_new_tokens=min(decoding.max_new_tokens, settings.max_new_tokens))
    seed = decoding.seed
    return [decoding if seed is None else replace(decoding, seed=seed + index) for index in range(request.n)]


def prepare_turn(
    request: ChatRequest, engine: Engine, media: Sequence[EncodedMedium], decoding: Decoding
) -> PreparedTurn:
    """Return the last question with the conversation before it, ready for the model.

    ``media`` are the encoded media of ``media_parts``, in the same order. Raises PromptError if the conversation does
    not fit into the context, and ApiError if ``max_tokens`` fills the whole context.
    """
    first = request.messages[0]
    system = _text(first.content) if isinstance(first, SystemMessage) else None
    conversation, remaining_media = engine.conversation(system), iter(media)
    for message in request.messages[:-1]:
        if isinstance(message, UserMessage):
            _add_media(conversation, message, remaining_media)
            conversation.ask(_text(message.content))
        elif isinstance(message, AssistantMessage):
            conversation.answer(_text(message.content))
    _add_media(conversation, request.messages[-1], remaining_media)
    try:
        return engine.turn(conversation, media, _text(request.messages[-1].content), decoding)
    except ValueError as error:
        raise ApiError(400, str(error), param="max_tokens") from error


def _add_media(
    conversation: Conversation,
    message: UserMessage | AssistantMessage | SystemMessage,
    remaining_media: Iterator[EncodedMedium],
) -> None:
    """Add the media of one message to the conversation, taking them from ``remaining_media``."""
    for _ in _media_of(message):
        conversation.add_media(message_for(next(remaining_media).read))
