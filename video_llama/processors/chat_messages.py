"""Messages in transformers' chat format: read their media, and write their texts as ``Conversation`` does.

In: messages whose content is a text, or blocks of type text, image, video and audio. A block names its medium as
``path``, ``url``, ``base64`` or by its own type. Out: the messages for the chat template, and the media in order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any

from video_llama.conversation import TextGuard
from video_llama.errors import PromptError
from video_llama.processors.decoded_media import (
    decode_base64,
    is_clip,
    is_picture,
    is_waveform,
    read_frames,
    read_picture,
    resolve,
    waveform_of,
)
from video_llama.processors.media_file import MediaKind, has_video_stream, is_folder, open_media
from video_llama.processors.medium import MediaOptions, ReadMedium, read_medium
from video_llama.processors.processing_options import ReadingOptions
from video_llama.processors.settings import ModelNumbers, ProcessorSettings
from video_llama.processors.sound_clips import SoundClips
from video_llama.processors.video_processor import SampledVideo

MEDIA_TYPES = ("image", "video", "audio")
OPENAI_TYPES = {"image_url": "image", "video_url": "video", "audio_url": "audio", "input_audio": "audio"}
"""OpenAI's names of media blocks, and ours."""


@dataclass
class ReadConversation:
    """A conversation for the chat template, with its media in prompt order."""

    messages: list[dict[str, Any]] = field(default_factory=list)
    images: list[SampledVideo] = field(default_factory=list)
    videos: list[SampledVideo] = field(default_factory=list)
    sounds: list[SoundClips] = field(default_factory=list)

    def add(self, medium: ReadMedium) -> list[dict[str, Any]]:
        """Add a medium; return its blocks without their sources. A video's sound follows it as a block."""
        if medium.sound is not None:
            self.sounds.append(medium.sound)
        if medium.frames is None:
            return [{"type": "audio", "audio": True}]
        if medium.kind == "image":
            self.images.append(medium.frames)
            return [{"type": "image"}]
        self.videos.append(medium.frames)
        return [{"type": "video"}, *([{"type": "audio"}] if medium.sound is not None else [])]


class MessageReader:
    """Reads the media of messages with a model's settings."""

    def __init__(
        self,
        settings: ProcessorSettings,
        numbers: ModelNumbers,
        options: ReadingOptions,
        cut: Callable[[Any, int], SoundClips],
    ) -> None:
        self._settings, self._numbers, self._options, self._cut = settings, numbers, options, cut

    def read(self, messages: Iterable[Any], guard: TextGuard | None, *, with_media: bool) -> ReadConversation:
        """Return the messages with the media read and the texts neutralized by ``guard``.

        Messages and their blocks are mappings, dataclasses, or objects with ``model_dump`` (pydantic, OpenAI's client).
        Without ``with_media``, files are opened only to find out whether a video has sound.
        """
        result = ReadConversation()
        for message in map(as_mapping, messages):
            content = message.get("content")
            if isinstance(content, str):
                content = _clean(content, guard)
            elif isinstance(content, Sequence):
                content = _joined(self._blocks(content, result, with_media), guard)
            result.messages.append({**message, "content": "" if content is None else content})
        return result

    def _blocks(
        self, content: Sequence[Mapping[str, Any]], result: ReadConversation, with_media: bool
    ) -> list[dict[str, Any]]:
        given = [_normalized(as_mapping(block)) for block in content]
        blocks: list[dict[str, Any]] = []
        for index, block in enumerate(given):
            source = _source(block)
            neighbours = [given[at] for at in (index - 1, index + 1) if 0 <= at < len(given)]
            if block["type"] == "audio" and source is None and any(map(_is_given_video, neighbours)):
                continue  # the sound of the video beside it, which is read with the video
            if source is None:
                blocks.append(block)
            elif with_media:
                blocks += result.add(self._medium(block["type"], source))
            else:
                blocks += self._unread(block["type"], source)
        return blocks

    def _medium(self, kind: str, source: Any) -> ReadMedium:
        size = (self._settings.image_size, self._settings.image_size)
        options = self._options
        if isinstance(source, ReadMedium):
            return source
        if kind == "audio" and is_waveform(source):
            return ReadMedium(
                "audio", "waveform", sound=self._cut(*waveform_of(source, options.rate_of(self._settings)))
            )
        source = resolve(source, allow_urls=options.allow_urls)
        if is_picture(source):
            return ReadMedium("image", "image", frames=read_picture(source, size))
        if is_clip(source) or (isinstance(source, (list, tuple)) and any(map(is_picture, source))):
            sampling = options.sampling_of_frames(self._settings)
            video = read_frames(source, size, sampling, self._numbers.max_frame_pos, options.metadata_of(0))
            return ReadMedium("frames", video.source, frames=video)
        if isinstance(source, (list, tuple)):
            source = [resolve(each, allow_urls=options.allow_urls) for each in source]
        forced: MediaKind | None = "image" if kind == "image" else "audio" if kind == "audio" else None
        return read_medium(
            source,
            self._settings,
            MediaOptions(options.sampling(self._settings), no_audio=kind != "audio" and options.no_audio),
            max_frames=self._numbers.max_frame_pos,
            with_audio_branch=self._numbers.with_audio_branch,
            kind=forced,
        )

    def _unread(self, kind: str, source: Any) -> list[dict[str, Any]]:
        """Return the blocks that ``_medium`` would give, without decoding the medium."""
        if kind != "video":
            return [{"type": kind, kind: True}]
        source = resolve(source, allow_urls=self._options.allow_urls)
        if is_picture(source):
            return [{"type": "image"}]
        if is_clip(source) or isinstance(source, (list, tuple)) or is_folder(source):
            return [{"type": "video"}]
        with open_media(source) as media:
            if media.kind != "video" or media.is_animation:
                return [{"type": media.kind, media.kind: True}]
            with media.container() as container:
                has_sound = has_video_stream(container) and bool(container.streams.audio)
        is_used = has_sound and self._numbers.with_audio_branch and not self._options.no_audio
        return [{"type": "video"}, *([{"type": "audio"}] if is_used else [])]


def as_mapping(value: Any) -> Any:
    """Return a dataclass or pydantic object as a mapping without its None values, and any other value as it is."""
    if is_dataclass(value) and not isinstance(value, type):
        values = {each.name: getattr(value, each.name) for each in fields(value)}
    elif hasattr(value, "model_dump"):
        values = value.model_dump()
    else:
        return value
    return {name: each for name, each in values.items() if each is not None}


def _is_given_video(block: Mapping[str, Any]) -> bool:
    return block["type"] == "video" and _source(block) is not None


def _normalized(block: Any) -> dict[str, Any]:
    """Return a block with our type names. Raises PromptError for a block of another type."""
    if isinstance(block, str):
        return {"type": "text", "text": block}
    kind = block.get("type") if isinstance(block, Mapping) else None
    if kind in OPENAI_TYPES:
        value = block.get(kind, "")
        if isinstance(value, Mapping):
            value = decode_base64(value["data"]) if "data" in value else value.get("url")
        return {"type": OPENAI_TYPES[kind], "url": value}
    if kind not in ("text", *MEDIA_TYPES):
        raise PromptError(f"A block of a message has type {kind!r}. Use text, {', '.join(MEDIA_TYPES)}.")
    return {key: value for key, value in block.items() if value is not None}


def _source(block: Mapping[str, Any]) -> Any:
    """Return the medium of a block, or None."""
    if block["type"] == "text":
        return None
    if "base64" in block:
        return decode_base64(block["base64"])
    return next((block[key] for key in (block["type"], "path", "url") if key in block and block[key] is not True), None)


def _joined(blocks: list[dict[str, Any]], guard: TextGuard | None) -> list[dict[str, Any]]:
    """Join adjacent texts with spaces, and neutralize each run, as ``Message.joined`` does."""
    joined: list[dict[str, Any]] = []
    for block in blocks:
        if block["type"] == "text" and joined and joined[-1]["type"] == "text":
            joined[-1] = {**joined[-1], "text": f"{joined[-1]['text']} {block.get('text', '')}"}
        else:
            joined.append(dict(block))
    return [
        {**block, "text": _clean(block.get("text", ""), guard)} if block["type"] == "text" else block
        for block in joined
    ]


def _clean(text: str, guard: TextGuard | None) -> str:
    return text if guard is None else guard.clean(text)
