"""Prompt templates, media messages, and the rendering of a conversation to a prompt.

A prompt is a list of text segments and media slots. Each segment is tokenised separately (``tokenization.py``), so the
segment boundaries are part of the format. The strings are those with which the reference serves its checkpoints
(DAMO-NLP-SG/Video-LLaMA ``conversation/conversation_video.py``; golden ``text.json``: chat, get_prompt, templates).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from typing import Literal, Protocol, TypeAlias

from video_llama.conversation.templates import TEMPLATES, Style, Template
from video_llama.errors import PromptError

PLACEHOLDER = "<ImageHere>"
"""The text of a slot of either kind."""

SOUND_INTRODUCTION = "Close your eyes, open your ears and you imagine only based on the sound that: "
SIGHT_INTRODUCTION = "Close your ears, open your eyes and you see that "
SOUND_GAP = " " * 17  # the reference's string literal spans several lines, so their indentation is part of the prompt
SIGHT_GAP = " " * 18
IMAGE_SYSTEM = (
    "You are able to understand the visual content that the user provides. Follow the instructions carefully and "
    "explain your answers in detail."
)
"""System text of the reference's demo for Vicuna and an image. For a video the system text is empty."""


@dataclass(frozen=True)
class Slot:
    """Position of a medium's tokens. An image is a video with one frame."""

    kind: Literal["video", "audio"]


@dataclass(frozen=True)
class Words:
    """A text description in place of a medium. Like a Slot, it is a segment of its own."""

    text: str


MessagePart: TypeAlias = "str | Slot | Words"
MessageContent: TypeAlias = "tuple[MessagePart, ...]"
Prompt: TypeAlias = "list[str | Slot]"


@dataclass(frozen=True)
class MediaMessage:
    """A medium's sentence with its slots. ``is_image``: the medium is a still image."""

    content: MessageContent
    is_image: bool = False

    @property
    def slots(self) -> list[Slot]:
        """The slots, in the order of their tokens in the prompt."""
        return [part for part in self.content if isinstance(part, Slot)]


def media_message(
    *,
    video: Slot | str | None = None,
    audio: Slot | str | None = None,
    image: Slot | str | None = None,
    sentence: str = "",
) -> MediaMessage:
    """Return the reference's sentence around a medium. A str in place of a Slot is a text description of the medium.

    Give one of these combinations:

    - ``video``, with its frame ``sentence``, which ends in a space;
    - ``image``;
    - ``audio`` and ``video``: the audio tokens come first; as in the reference, the frame sentence is dropped;
    - ``audio``: the reference has no such message, so this is the first half of its audio-and-video sentence.

    Raises ValueError for any other combination, and for a Slot of the wrong kind.
    """
    for name, medium, kind in (("video", video, "video"), ("audio", audio, "audio"), ("image", image, "video")):
        if isinstance(medium, Slot) and medium.kind != kind:
            raise ValueError(f"media_message: {name} got a Slot({medium.kind!r}). Give Slot({kind!r}).")
    if image is not None:
        if video is not None or audio is not None:
            raise ValueError(
                "media_message: an image cannot be combined with video or audio. Use one message per medium."
            )
        return MediaMessage(("<Image>", _part(image), "</Image> "), is_image=True)
    if audio is not None and video is not None:
        seen_and_heard = f".{SIGHT_GAP}Now answer my question based on what you have just seen and heard."
        sight = f".{SOUND_GAP}{SIGHT_INTRODUCTION}<Video>"
        return MediaMessage((SOUND_INTRODUCTION, _part(audio), sight, _part(video), "</Video>" + seen_and_heard))
    if audio is not None:
        heard = f".{SIGHT_GAP}Now answer my question based on what you have just heard."
        return MediaMessage((SOUND_INTRODUCTION, _part(audio), heard))
    if video is not None:
        return MediaMessage(("<Video>", _part(video), "</Video> " + sentence))
    raise ValueError("media_message: no medium given. Give video, audio, video and audio, or image.")


def _part(medium: Slot | str) -> MessagePart:
    return Words(medium) if isinstance(medium, str) else medium


@dataclass(frozen=True)
class Message:
    """One message of a role: media and texts in order. The prompt joins them with single spaces."""

    role: str
    parts: tuple[MediaMessage | str, ...]

    @property
    def content(self) -> MessageContent:
        """The parts as text, slots and words, joined as the reference joins a question to its media message."""
        return self.joined(lambda text: text)

    def joined(self, clean: Callable[[str], str]) -> MessageContent:
        """Return the content with ``clean`` applied to its texts: each run of adjacent texts, and each of Words."""
        content: list[MessagePart] = []
        for is_text, group in groupby(self.parts, key=lambda part: isinstance(part, str)):
            glue = [" "] if content else []
            if is_text:
                content += [*glue, clean(" ".join(str(part) for part in group))]
                continue
            for media in group:
                assert isinstance(media, MediaMessage)
                words = (
                    replace(part, text=clean(part.text)) if isinstance(part, Words) else part for part in media.content
                )
                content += [*glue, *words]
                glue = [" "]
        return tuple(content)

    @property
    def text(self) -> str:
        """The message as one string in the reference's form: every slot is ``<ImageHere>``."""
        return _written(self.content)

    @property
    def media(self) -> tuple[MediaMessage, ...]:
        """The media messages among the parts."""
        return tuple(part for part in self.parts if isinstance(part, MediaMessage))


def render(
    template: Template, messages: Iterable[tuple[str, MessageContent | None]], system: str | None = None
) -> Prompt:
    """Join (role, content) messages to a prompt. A content that is None or empty marks the answer to be generated.

    ``system`` replaces the template's system text. Adjacent text segments are merged; a segment ends only at a Slot or
    at Words.
    """
    turns = [(role, content if content and content != ("",) else None) for role, content in messages]
    return _joined(template, turns, template.system if system is None else system)


def _joined(template: Template, turns: Sequence[tuple[str, MessageContent | None]], system: str) -> Prompt:
    """Join messages to a prompt. Only a content that is None marks the answer to be generated; others may be empty."""
    join = _JOINS[template.style]
    return _merge(join(template, turns, system))


def _join_with_seps(
    template: Template, turns: Sequence[tuple[str, MessageContent | None]], system: str
) -> Iterable[MessagePart]:
    user_sep = template.sep
    assistant_sep = template.stop_string
    yield system + user_sep
    for index, (role, content) in enumerate(turns):
        if content is None:
            yield f"{role}:"
        else:
            yield f"{role}: "
            yield from content
            yield assistant_sep if index % 2 else user_sep


def _join_llama_2(
    template: Template, turns: Sequence[tuple[str, MessageContent | None]], system: str
) -> Iterable[MessagePart]:
    for index, (_, content) in enumerate(turns):
        if content is None:
            continue
        if index % 2:
            yield " "
            yield from content
            yield f" {template.stop_string}"
        else:
            # The tokenizer adds BOS to the first segment, so the first "<s>" is not written here.
            yield f"{template.sep}[INST] " if index else f"[INST] <<SYS>>\n{system}\n<</SYS>>\n\n"
            yield from content
            yield " [/INST]"


def _join_turns(
    template: Template, turns: Sequence[tuple[str, MessageContent | None]], system: str
) -> Iterable[MessagePart]:
    texts = template.turns
    assert texts is not None, "TURNS has its texts"
    for index, (_, content) in enumerate(turns):
        if content is None:
            continue
        if index % 2:
            yield texts.answer_prefix
            yield from content
            yield texts.answer_end
        else:
            yield texts.next_question if index else texts.head(system)
            yield from content
            yield texts.question_end


_JOINS = {
    Style.SINGLE: _join_with_seps,
    Style.TWO: _join_with_seps,
    Style.LLAMA_2: _join_llama_2,
    Style.TURNS: _join_turns,
}


def _merge(parts: Iterable[MessagePart]) -> Prompt:
    """Join adjacent texts. Slots and Words remain segments of their own."""
    prompt: Prompt = []
    is_open = False  # whether text may be appended to the last segment
    for part in parts:
        if isinstance(part, str) and is_open:
            last = prompt.pop()
            assert isinstance(last, str)
            prompt.append(last + part)
        else:
            prompt.append(part.text if isinstance(part, Words) else part)
            is_open = isinstance(part, str)
    return prompt


def prompt_text(prompt: Prompt) -> str:
    """Return the prompt as one string, identical to the reference's: every slot is ``<ImageHere>``."""
    return _written(prompt)


def _written(parts: Iterable[MessagePart]) -> str:
    words = (part.text if isinstance(part, Words) else part for part in parts)
    return "".join(PLACEHOLDER if isinstance(part, Slot) else part for part in words)


class Guard(Protocol):
    """Finds and neutralizes sequences in a text."""

    def clean(self, text: str) -> str:
        """Return the text with the sequences neutralized."""

    def found(self, text: str) -> list[str]:
        """Return the sequences in the text."""


@dataclass
class Conversation:
    """The messages of a conversation. User messages may contain any number of media, in any order and turn.

    If ``system`` is None, the first medium decides the system text, as in the reference: "" for video or audio,
    ``IMAGE_SYSTEM`` for an image with a SINGLE template, otherwise the template's own. With TURNS it is always the
    template's own.

    ``guard`` neutralizes control tokens and turns in the texts of users (``user_text.TextGuard``). None puts them into
    the prompt as they are, as in the reference.
    """

    template: Template = TEMPLATES["default"]
    system: str | None = None
    messages: list[Message] = field(default_factory=list)
    guard: Guard | None = None

    @property
    def media(self) -> list[MediaMessage]:
        """All media messages, in prompt order."""
        return [media for message in self.messages for media in message.media]

    def add_media(self, media: MediaMessage) -> None:
        """Append a medium to the current user message. Add the question with ``ask``."""
        self._extend_user(media, joins=True)

    def ask(self, text: str) -> None:
        """Add the user's text to the current message if that has media (as in the reference), else as a new message."""
        last = self.messages[-1] if self.messages else None
        # LLAMA_2 and TWO derive the role from the message's position, so consecutive user messages must be merged.
        self._extend_user(text, joins=self.template.style is not Style.SINGLE or bool(last and last.media))

    def _extend_user(self, part: MediaMessage | str, *, joins: bool) -> None:
        user = self.template.roles[0]
        if joins and self.messages and self.messages[-1].role == user:
            part_of = self.messages.pop()
            self.messages.append(Message(user, (*part_of.parts, part)))
        else:
            self.messages.append(Message(user, (part,)))

    def answer(self, text: str) -> None:
        """Add the assistant's answer, as returned by ``postprocess``. Raises PromptError without a question."""
        if not self.messages or self.messages[-1].role != self.template.roles[0]:
            raise PromptError("There is no question to answer. Ask one first.")
        self.messages.append(Message(self.template.roles[1], (text,)))

    @property
    def resolved_system(self) -> str:
        """The system text of the prompt."""
        if self.system is not None:
            return self._clean(self.system)
        media = self.media
        if not media or self.template.style is Style.TURNS:
            return self.template.system
        if not media[0].is_image:
            return ""
        return IMAGE_SYSTEM if self.template.style is Style.SINGLE else self.template.system

    def prompt(self) -> Prompt:
        """Return the prompt. After a question it ends where the answer begins; after an answer it ends with the stop
        string.

        Raises PromptError if the conversation is empty.
        """
        if not self.messages:
            raise PromptError("The conversation is empty. Ask a question first.")
        user, assistant = self.template.roles
        turns: list[tuple[str, MessageContent | None]] = [
            (message.role, message.joined(self._clean)) for message in self.messages
        ]
        if turns[-1][0] == user:
            turns.append((assistant, None))
        return _joined(self.template, turns, self.resolved_system)

    def neutralized(self) -> list[str]:
        """Return the sequences that ``guard`` neutralizes in this conversation, each once."""
        if self.guard is None:
            return []
        texts = [self.system or ""]

        def collected(text: str) -> str:
            texts.append(text)
            return text

        for message in self.messages:
            message.joined(collected)
        return list(dict.fromkeys(match for text in texts for match in self.guard.found(text)))

    def _clean(self, text: str) -> str:
        return text if self.guard is None else self.guard.clean(text)

    def text(self) -> str:
        """Return the prompt as one string, identical to the reference's (``<ImageHere>`` for every slot)."""
        return prompt_text(self.prompt())
