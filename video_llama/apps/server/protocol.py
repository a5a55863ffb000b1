"""Request and response schemas: the supported part of OpenAI's chat completions, and one extension key.

Unsupported parameters are refused by name instead of ignored: clients could not detect that a parameter was ignored.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    GetJsonSchemaHandler,
    StringConstraints,
    Tag,
    WithJsonSchema,
    model_validator,
)
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, PydanticCustomError

EXTENSION = "video_llama"
"""Key for parameters and results that OpenAI's API does not define, in requests and responses."""

MAX_LIST = 1024
"""Maximum number of messages in a request and of parts in a message."""

UNSUPPORTED = "this parameter is not supported by this server. Leave it out"
LEFT_OUTSIDE = ("default", "title", "description")
"""Keywords of a property that are not part of an alternative of it."""


def is_tag(step: str) -> bool:
    """Return whether a step of an error's location is the name of an alternative and not a key of the request."""
    return step.startswith("<") and step.endswith(">")


def _whole(text: str) -> str:
    """Return the text. Raises PydanticCustomError for a lone surrogate, which no text in UTF-8 has."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        code = f"U+{ord(text[error.start]):04X}"
        message = f"character {error.start + 1} is {code}, half of a surrogate pair. Send the text as UTF-8"
        raise PydanticCustomError("surrogate", message) from None
    return text


def _unsupported(*neutral: str | bool) -> Any:
    """Return the type of a parameter whose only accepted values ask for nothing: null, empty ones and ``neutral``."""
    accepted: list[Any] = [None, "", [], {}, False, 0, *neutral]

    def check(value: Any) -> Any:
        if not any(value == nothing and type(value) is type(nothing) for nothing in accepted):
            raise PydanticCustomError("unsupported", UNSUPPORTED)
        return value

    return Annotated[Any, AfterValidator(check), WithJsonSchema({"enum": accepted})]


Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Text = Annotated[str, AfterValidator(_whole)]
Url = Annotated[str, StringConstraints(min_length=1), AfterValidator(_whole)]


class RequestModel(BaseModel):
    """Base class of request schemas. Keys whose value is null are ignored, other unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    @model_validator(mode="before")
    @classmethod
    def _without_nulls(cls, fields: Any) -> Any:
        """Remove null values: official clients send parameters that are not given as null."""
        if not isinstance(fields, dict):
            return fields
        return {name: value for name, value in fields.items() if value is not None}

    @classmethod
    def __get_pydantic_json_schema__(cls, core_schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        """Return the schema in which optional properties, and unknown ones, may be null."""
        reference = handler(core_schema)
        schema = handler.resolve_ref_schema(reference)
        required = schema.get("required", ())
        properties = schema.get("properties", {}).items()
        schema["properties"] = {name: part if name in required else _nullable(part) for name, part in properties}
        schema["additionalProperties"] = {"type": "null"}
        return reference


def _nullable(schema: dict[str, Any]) -> dict[str, Any]:
    null = {"type": "null"}
    if null in schema.get("anyOf", ()) or None in schema.get("enum", ()):
        return schema
    kept = {name: value for name, value in schema.items() if name in LEFT_OUTSIDE}
    return {"anyOf": [{name: value for name, value in schema.items() if name not in kept}, null], **kept}


def _by_key(key: str, values: tuple[str, ...]) -> Discriminator:
    """Return the choice between schemas by the value of a key. Its tags are those of ``is_tag``."""

    def tag_of(fields: Any) -> str | None:
        value = fields.get(key) if isinstance(fields, dict) else getattr(fields, key, None)
        return f"<{value}>" if value in values else None

    message = f"must be an object whose {key} is {', '.join(values[:-1])} or {values[-1]}"
    return Discriminator(tag_of, custom_error_type="alternative", custom_error_message=message)


def _text_or_list(content: Any) -> str | None:
    if isinstance(content, str):
        return "<string>"
    return "<list>" if isinstance(content, list) else None


TEXT_OR_LIST = Discriminator(
    _text_or_list, custom_error_type="alternative", custom_error_message="must be a string or a list"
)


class TextPart(RequestModel):
    """Text."""

    type: Literal["text"]
    text: Text


class RefusalPart(RequestModel):
    """A refusal in an earlier answer, which is used as its text."""

    type: Literal["refusal"]
    refusal: Text


class ImageUrl(RequestModel):
    """The URL of an image: a ``data:`` URL, or an ``http(s):`` or ``file:`` URL if the server allows it."""

    url: Url
    detail: Literal["auto", "low", "high"] = "auto"
    """Ignored: all images are resized to the input size of the model."""


class MediaUrl(RequestModel):
    """The URL of a video or audio file; the same schemes as for images."""

    url: Url


class ImagePart(RequestModel):
    """An image."""

    type: Literal["image_url"]
    image_url: ImageUrl


class VideoPart(RequestModel):
    """A video. Its audio track is used as well."""

    type: Literal["video_url"]
    video_url: MediaUrl


class AudioPart(RequestModel):
    """An audio file, or a video file; only its audio track is used."""

    type: Literal["audio_url"]
    audio_url: MediaUrl


class InputAudio(RequestModel):
    """An audio file in base64. Its format is detected from its content; ``format`` is ignored."""

    data: str
    format: Annotated[str, StringConstraints(max_length=16)]


class InputAudioPart(RequestModel):
    """An audio file in the format of OpenAI's audio models."""

    type: Literal["input_audio"]
    input_audio: InputAudio


MediaPart = ImagePart | VideoPart | AudioPart | InputAudioPart
ContentPart = Annotated[
    Annotated[TextPart, Tag("<text>")]
    | Annotated[ImagePart, Tag("<image_url>")]
    | Annotated[VideoPart, Tag("<video_url>")]
    | Annotated[AudioPart, Tag("<audio_url>")]
    | Annotated[InputAudioPart, Tag("<input_audio>")],
    _by_key("type", ("text", "image_url", "video_url", "audio_url", "input_audio")),
]
AnswerPart = Annotated[
    Annotated[TextPart, Tag("<text>")] | Annotated[RefusalPart, Tag("<refusal>")],
    _by_key("type", ("text", "refusal")),
]
PartList = Annotated[list[ContentPart], Field(min_length=1, max_length=MAX_LIST, fail_fast=True)]
AnswerList = Annotated[list[AnswerPart], Field(max_length=MAX_LIST, fail_fast=True)]
TextList = Annotated[list[TextPart], Field(min_length=1, max_length=MAX_LIST, fail_fast=True)]


class UserMessage(RequestModel):
    """A question. The prompt contains its media before its text, as in training, regardless of their order here."""

    role: Literal["user"]
    content: Annotated[Annotated[Text, Tag("<string>")] | Annotated[PartList, Tag("<list>")], TEXT_OR_LIST]
    name: str | None = None
    """Ignored."""


class AssistantMessage(RequestModel):
    """A previous answer, as it was received: keys that clients copy from responses are accepted."""

    role: Literal["assistant"]
    content: Annotated[Annotated[Text, Tag("<string>")] | Annotated[AnswerList, Tag("<list>")], TEXT_OR_LIST] = ""
    """Null is an empty answer."""
    name: str | None = None
    """Ignored."""
    refusal: str | None = None
    """Ignored."""
    reasoning_content: str | None = None
    """Ignored."""
    reasoning: str | None = None
    """Ignored."""
    annotations: list[Any] | None = None
    """Ignored."""
    audio: dict[str, Any] | None = None
    """Ignored."""
    tool_calls: _unsupported() = None  # type: ignore[valid-type]
    """Not supported."""
    function_call: _unsupported() = None  # type: ignore[valid-type]
    """Not supported."""


class SystemMessage(RequestModel):
    """Replaces the system prompt of the model. Must be the first message."""

    role: Literal["system", "developer"]
    content: Annotated[Annotated[Text, Tag("<string>")] | Annotated[TextList, Tag("<list>")], TEXT_OR_LIST]
    name: str | None = None
    """Ignored."""


def _role_tag(message: Any) -> str | None:
    role = message.get("role") if isinstance(message, dict) else getattr(message, "role", None)
    role = "system" if role == "developer" else role
    return f"<{role}>" if role in ("user", "assistant", "system") else None


ChatMessage = Annotated[
    Annotated[UserMessage, Tag("<user>")]
    | Annotated[AssistantMessage, Tag("<assistant>")]
    | Annotated[SystemMessage, Tag("<system>")],
    Discriminator(
        _role_tag,
        custom_error_type="alternative",
        custom_error_message="must be an object whose role is user, assistant, system or developer",
    ),
]


class StreamOptions(RequestModel):
    """Options of a streamed response."""

    include_usage: bool = False
    """Send the token counts in a final chunk."""
    include_obfuscation: bool | None = None
    """Ignored."""


class TextFormat(RequestModel):
    """The only supported response format."""

    type: Literal["text"] = "text"


class RequestExtension(RequestModel):
    """Parameters that OpenAI's API does not define: frame sampling, audio, decoding, and the record."""

    record: bool = False
    """Return a record of each answer: weights, media, prompt, decoding settings, token counts and times."""
    frames: Annotated[int, Field(ge=1)] | None = None
    """Number of frames to sample (default: set by the model). At most one of frames, fps and times may be given."""
    fps: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    """Frames to sample per second of video."""
    times: Annotated[list[Seconds], Field(min_length=1, max_length=MAX_LIST)] | None = None
    """Times of the frames to sample, in seconds."""
    start: Seconds | None = None
    """Start of the segment, in seconds."""
    end: Seconds | None = None
    """End of the segment, in seconds."""
    no_audio: bool = False
    """Do not use audio."""
    require_audio: bool = False
    """Return an error for media without audio."""
    top_k: Annotated[int, Field(ge=1)] | None = None
    """Top-k sampling: number of most probable tokens to sample from."""
    repetition_penalty: Annotated[float, Field(ge=0.1, le=10, allow_inf_nan=False)] = 1.0
    """Repetition penalty; values above 1 discourage repetition."""
    num_beams: Annotated[int, Field(ge=1)] = 1
    """Number of beams; values above 1 use beam search, which cannot be combined with stream."""


Stop = Annotated[str, StringConstraints(min_length=1, max_length=256)]


class ChatRequest(RequestModel):
    """A chat completion request."""

    model: Annotated[str, StringConstraints(max_length=1024)]
    """Model id as listed by ``/v1/models``."""
    messages: Annotated[list[ChatMessage], Field(min_length=1, max_length=MAX_LIST, fail_fast=True)]
    """The conversation. The last message must have the role user."""
    temperature: Annotated[float, Field(ge=0, le=2, allow_inf_nan=False)] | None = None
    """Sampling temperature; values below 0.001 select greedy decoding. Unlike OpenAI's API, decoding is also greedy if
    temperature, top_p and top_k are all omitted."""
    top_p: Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)] | None = None
    """Nucleus sampling: smallest set of tokens whose probabilities add up to this value."""
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    """Maximum number of tokens in the answer (default: 300, or half of the context length if that is smaller)."""
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    """Newer name of max_tokens, which is ignored if both are given."""
    seed: Annotated[int, Field(ge=0, lt=2**62)] | None = None
    """Random seed for sampling (default: random; included in the record). Choice i uses the seed plus i."""
    stop: Annotated[
        Annotated[Annotated[str, StringConstraints(max_length=256)], Tag("<string>")]
        | Annotated[Annotated[list[Stop], Field(max_length=4)], Tag("<list>")],
        TEXT_OR_LIST,
    ] = ""
    """Stop strings. The answer ends before the first of them, which is not part of the answer."""
    n: Annotated[int, Field(ge=1)] = 1
    """Number of answers."""
    stream: bool | None = None
    """Stream the answer as server-sent events."""
    stream_options: StreamOptions | None = None
    response_format: TextFormat | None = None
    frequency_penalty: Annotated[float, Field(ge=0, le=0)] | None = None
    """Only 0 is supported. Use video_llama.repetition_penalty instead."""
    presence_penalty: Annotated[float, Field(ge=0, le=0)] | None = None
    """Only 0 is supported."""
    audio: _unsupported() = None  # type: ignore[valid-type]
    """Not supported: answers are text."""
    function_call: _unsupported("none", "auto") = None  # type: ignore[valid-type]
    """Not supported."""
    functions: _unsupported() = None  # type: ignore[valid-type]
    """Not supported."""
    logit_bias: _unsupported() = None  # type: ignore[valid-type]
    """Not supported."""
    logprobs: _unsupported() = None  # type: ignore[valid-type]
    """Not supported."""
    modalities: Annotated[list[Literal["text"]], Field(max_length=1)] | None = None
    """Answers are text."""
    parallel_tool_calls: bool | None = None
    """Ignored."""
    prediction: _unsupported() = None  # type: ignore[valid-type]
    """Not supported."""
    prompt_cache_key: str | None = None
    """Ignored."""
    prompt_cache_retention: str | None = None
    """Ignored."""
    reasoning_effort: _unsupported("none") = None  # type: ignore[valid-type]
    """Not supported."""
    safety_identifier: str | None = None
    """Ignored."""
    service_tier: _unsupported("auto", "default") = None  # type: ignore[valid-type]
    """Not supported."""
    tool_choice: _unsupported("none", "auto") = None  # type: ignore[valid-type]
    """Not supported."""
    tools: _unsupported() = None  # type: ignore[valid-type]
    """Not supported."""
    top_logprobs: _unsupported() = None  # type: ignore[valid-type]
    """Not supported."""
    verbosity: _unsupported("medium") = None  # type: ignore[valid-type]
    """Not supported."""
    web_search_options: _unsupported() = None  # type: ignore[valid-type]
    """Not supported."""
    user: str | None = None
    """Ignored."""
    metadata: dict[str, Any] | None = None
    """Ignored."""
    store: bool | None = None
    """Ignored: requests are never stored."""
    video_llama: RequestExtension = RequestExtension()
    """Parameters that OpenAI's API does not define."""


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


class ReplyExtension(BaseModel):
    """The extension key of a response: the notice of the weights, and one record per choice."""

    notice: str
    records: list[dict[str, Any]]


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
