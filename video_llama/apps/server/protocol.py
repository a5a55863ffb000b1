"""What the API takes and gives: OpenAI's chat completions, as far as this model can honour them, and one key of ours.

A parameter that is not here is refused by its name: an answer that ignores what was asked would look like one that
does not.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

EXTENSION = "video_llama"
"""The key of what OpenAI's API has no word for, in requests and in answers."""

MAX_LIST = 1024
"""Messages in a request, and parts in a message."""

Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Url = Annotated[str, StringConstraints(min_length=1)]


class Wire(BaseModel):
    """Base of everything that is received: no unknown keys."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)


class TextPart(Wire):
    """Words."""

    type: Literal["text"]
    text: str


class ImageUrl(Wire):
    """Where an image is: a ``data:`` URL; ``http(s):`` or ``file:`` where the server allows it."""

    url: Url
    detail: Literal["auto", "low", "high"] = "auto"
    """Without effect: every image is seen in the model's one size."""


class MediaUrl(Wire):
    """Where a video or sound is, as for an image."""

    url: Url


class ImagePart(Wire):
    """An image."""

    type: Literal["image_url"]
    image_url: ImageUrl


class VideoPart(Wire):
    """A video; its sound is heard, too."""

    type: Literal["video_url"]
    video_url: MediaUrl


class AudioPart(Wire):
    """A sound; of a video, its track."""

    type: Literal["audio_url"]
    audio_url: MediaUrl


class InputAudio(Wire):
    """A sound in base64. What it is is seen from its content."""

    data: str
    format: Annotated[str, StringConstraints(max_length=16)]


class InputAudioPart(Wire):
    """A sound, as OpenAI's audio models take it."""

    type: Literal["input_audio"]
    input_audio: InputAudio


MediaPart = ImagePart | VideoPart | AudioPart | InputAudioPart
ContentPart = Annotated[TextPart | MediaPart, Field(discriminator="type")]


class UserMessage(Wire):
    """A question. Its media are put before its words, as the model was trained, whatever their order here."""

    role: Literal["user"]
    content: str | Annotated[list[ContentPart], Field(min_length=1, max_length=MAX_LIST)]
    name: str | None = None
    """Without effect."""


class AssistantMessage(Wire):
    """An answer given before."""

    role: Literal["assistant"]
    content: str | Annotated[list[TextPart], Field(min_length=1, max_length=MAX_LIST)]
    name: str | None = None
    """Without effect."""


class SystemMessage(Wire):
    """Replaces the model's system text. Only the first message can be one."""

    role: Literal["system", "developer"]
    content: str | Annotated[list[TextPart], Field(min_length=1, max_length=MAX_LIST)]
    name: str | None = None
    """Without effect."""


ChatMessage = Annotated[UserMessage | AssistantMessage | SystemMessage, Field(discriminator="role")]


class StreamOptions(Wire):
    """What a stream tells beside the answer."""

    include_usage: bool = False
    """A last chunk with the counts of tokens."""


class TextFormat(Wire):
    """The only format of an answer."""

    type: Literal["text"]


class RequestExtension(Wire):
    """What OpenAI's API has no word for: how media are read, how tokens are chosen, and the record."""

    record: bool = False
    """Give what each answer rests on: weights, media, prompt, decoding, counts and times."""
    frames: Annotated[int, Field(ge=1)] | None = None
    """Frames to look at; the model's own number by default. At most one of frames, fps and times."""
    fps: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    """Frames per second to look at."""
    times: Annotated[list[Seconds], Field(min_length=1, max_length=MAX_LIST)] | None = None
    """Seconds to look at."""
    start: Seconds | None = None
    """Look and listen from this second on."""
    end: Seconds | None = None
    """Look and listen up to this second."""
    no_audio: bool = False
    """Leave the sound out."""
    require_audio: bool = False
    """A medium without sound is an error."""
    top_k: Annotated[int, Field(ge=1)] | None = None
    """Draw from this many likeliest tokens."""
    repetition_penalty: Annotated[float, Field(ge=0.1, le=10, allow_inf_nan=False)] = 1.0
    """Above 1, words recur less."""
    num_beams: Annotated[int, Field(ge=1)] = 1
    """Above 1, the answer is searched for with so many beams. It comes whole: not with stream."""


Stop = Annotated[str, StringConstraints(min_length=1, max_length=256)]


class ChatRequest(Wire):
    """A conversation to be answered."""

    model: str
    """As ``/v1/models`` names it."""
    messages: Annotated[list[ChatMessage], Field(min_length=1, max_length=MAX_LIST)]
    """From the first to the question; the last is a user's."""
    temperature: Annotated[float, Field(ge=0, le=2, allow_inf_nan=False)] | None = None
    """Of the draws. 0 is greedy (below 0.001 counts as 0), and so is leaving it and top_p out, unlike OpenAI's."""
    top_p: Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)] | None = None
    """Draw from the likeliest tokens of this sum."""
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    """Longest answer. By default 300, at most half the context."""
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    """The newer name of max_tokens."""
    seed: Annotated[int, Field(ge=0, lt=2**62)] | None = None
    """Of the draws: the same seed draws the same answer. The n-th choice takes seed + n - 1."""
    stop: Stop | Annotated[list[Stop], Field(max_length=4)] | None = None
    """The answer ends in front of the first of these."""
    n: Annotated[int, Field(ge=1)] = 1
    """How many answers."""
    stream: bool | None = None
    """Send the answer while it is made, as server-sent events."""
    stream_options: StreamOptions | None = None
    response_format: TextFormat | None = None
    frequency_penalty: Annotated[float, Field(ge=0, le=0)] | None = None
    """Only 0. See repetition_penalty under video_llama."""
    presence_penalty: Annotated[float, Field(ge=0, le=0)] | None = None
    """Only 0."""
    logprobs: Literal[False] | None = None
    """Only false."""
    user: str | None = None
    """Without effect, as metadata and store: nothing of a request is kept."""
    metadata: dict[str, Any] | None = None
    store: bool | None = None
    video_llama: RequestExtension = RequestExtension()
    """The key of ours."""


class AnswerMessage(BaseModel):
    """The answer."""

    role: Literal["assistant"] = "assistant"
    content: str
    refusal: None = None


class Choice(BaseModel):
    """One of the answers."""

    index: int
    message: AnswerMessage
    finish_reason: Literal["stop", "length"]
    logprobs: None = None


class PromptDetails(BaseModel):
    """Of the prompt's tokens."""

    cached_tokens: int


class Usage(BaseModel):
    """Tokens: the prompt's with its media, counted once, and those of all answers."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptDetails


class ReplyExtension(BaseModel):
    """What our key gives back: what the weights can know, and one record per choice."""

    notice: str
    records: list[dict[str, Any]]


class ChatCompletion(BaseModel):
    """A whole answer."""

    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    choices: list[Choice]
    usage: Usage
    video_llama: ReplyExtension | None = None


class Model(BaseModel):
    """A model that can be asked."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str
    notice: str
    """What its weights can and cannot know."""


class ModelList(BaseModel):
    """All of them; here, one."""

    object: Literal["list"] = "list"
    data: list[Model]


class Health(BaseModel):
    """That the server answers, and what it has to do."""

    status: Literal["ok"] = "ok"
    running: int
    waiting: int


class ErrorDetails(BaseModel):
    """What went wrong; ``param`` names the parameter at fault."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorBody(BaseModel):
    """Every answer that is an error."""

    error: ErrorDetails
