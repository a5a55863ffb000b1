"""Request schemas: the supported part of OpenAI's chat completions, and one extension key.

Unsupported parameters are refused by name instead of ignored: clients could not detect that a parameter was ignored.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, StringConstraints, Tag

from video_llama.apps.server.request_model import (
    TEXT_OR_LIST,
    RequestModel,
    Text,
    Url,
    chosen_by,
    unsupported,
)

EXTENSION = "video_llama"
"""Key for parameters and results that OpenAI's API does not define, in requests and responses."""

MAX_LIST = 1024
"""Maximum number of messages in a request and of parts in a message."""

Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]


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
    chosen_by("type", ("text", "image_url", "video_url", "audio_url", "input_audio")),
]
AnswerPart = Annotated[
    Annotated[TextPart, Tag("<text>")] | Annotated[RefusalPart, Tag("<refusal>")],
    chosen_by("type", ("text", "refusal")),
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
    tool_calls: unsupported() = None  # type: ignore[valid-type]
    """Not supported."""
    function_call: unsupported() = None  # type: ignore[valid-type]
    """Not supported."""


class SystemMessage(RequestModel):
    """Replaces the system prompt of the model. Must be the first message."""

    role: Literal["system", "developer"]
    content: Annotated[Annotated[Text, Tag("<string>")] | Annotated[TextList, Tag("<list>")], TEXT_OR_LIST]
    name: str | None = None
    """Ignored."""


ChatMessage = Annotated[
    Annotated[UserMessage, Tag("<user>")]
    | Annotated[AssistantMessage, Tag("<assistant>")]
    | Annotated[SystemMessage, Tag("<system>")]
    | Annotated[SystemMessage, Tag("<developer>")],
    chosen_by("role", ("user", "assistant", "system", "developer")),
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
    window: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    """Length of the windows of a timeline, in seconds: the question is answered for each window of one video or sound.
    The answer is the timeline as text, and ``video_llama.timeline`` of the response. Not with stream or n."""
    stride: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    """Seconds from the start of a window to that of the next one (default: the length of a window)."""
    scenes: bool = False
    """The windows are the scenes between the cuts of a video; with ``window``, longer scenes are divided."""
    summary: bool = False
    """Add a summary of the answers about the windows."""

    @property
    def is_timeline(self) -> bool:
        """Whether the medium is divided into windows."""
        return self.window is not None or self.scenes

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
    audio: unsupported() = None  # type: ignore[valid-type]
    """Not supported: answers are text."""
    function_call: unsupported("none", "auto") = None  # type: ignore[valid-type]
    """Not supported."""
    functions: unsupported() = None  # type: ignore[valid-type]
    """Not supported."""
    logit_bias: unsupported() = None  # type: ignore[valid-type]
    """Not supported."""
    logprobs: unsupported() = None  # type: ignore[valid-type]
    """Not supported."""
    modalities: Annotated[list[Literal["text"]], Field(max_length=1)] | None = None
    """Answers are text."""
    parallel_tool_calls: bool | None = None
    """Ignored."""
    prediction: unsupported() = None  # type: ignore[valid-type]
    """Not supported."""
    prompt_cache_key: str | None = None
    """Ignored."""
    prompt_cache_retention: str | None = None
    """Ignored."""
    reasoning_effort: unsupported("none") = None  # type: ignore[valid-type]
    """Not supported."""
    safety_identifier: str | None = None
    """Ignored."""
    service_tier: unsupported("auto", "default") = None  # type: ignore[valid-type]
    """Not supported."""
    tool_choice: unsupported("none", "auto") = None  # type: ignore[valid-type]
    """Not supported."""
    tools: unsupported() = None  # type: ignore[valid-type]
    """Not supported."""
    top_logprobs: unsupported() = None  # type: ignore[valid-type]
    """Not supported."""
    verbosity: unsupported("medium") = None  # type: ignore[valid-type]
    """Not supported."""
    web_search_options: unsupported() = None  # type: ignore[valid-type]
    """Not supported."""
    user: str | None = None
    """Ignored."""
    metadata: dict[str, Any] | None = None
    """Ignored."""
    store: bool | None = None
    """Ignored: requests are never stored."""
    video_llama: RequestExtension = RequestExtension()
    """Parameters that OpenAI's API does not define."""
