"""Dialogues become the prompts that the model is served, with media told in words; and token ids with labels.

In: a ``Dialogue`` (plain data) or a caption pair. Out: a ``Conversation``, or a ``TrainingExample``. The words stand
where a medium's tokens will, as a segment of their own, so the language model learns the very prompts of serving.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Literal

from video_llama.conversation import (
    Conversation,
    MediaMessage,
    Prompt,
    Slot,
    Span,
    Tokenizer,
    TrainingExample,
    TrainingTurn,
    caption_example,
    media_message,
    training_example,
)
from video_llama.miniature.questions import Dialogue

MediumKind = Literal["video", "audio"]

TEMPLATE = "default"
END_OF_ANSWER = "###"
MAX_CAPTION_TOKENS = 64


def frames_sentence(seconds: tuple[float, ...]) -> str:
    """The reference's sentence about the frames' times; empty without times."""
    times = ", ".join(str(round(second, 1)) for second in seconds)
    return f"The video contains {len(seconds)} frames sampled at {times} seconds. " if seconds else ""


def media_of(dialogue: Dialogue) -> tuple[MediaMessage, ...]:
    """The one media message of a dialogue, in words; none for a dialogue without a medium."""
    if dialogue.medium == "text":
        return ()
    sentence = frames_sentence(dialogue.frame_seconds)
    message = media_message(
        video=dialogue.video_words, audio=dialogue.sound_words, image=dialogue.image_words, sentence=sentence
    )
    return (message,)


def dialogue_turns(dialogue: Dialogue) -> list[TrainingTurn]:
    """Questions with answers; the medium goes with the first."""
    media = media_of(dialogue)
    return [TrainingTurn(qa.question, qa.answer, () if index else media) for index, qa in enumerate(dialogue.turns)]


def dialogue_conversation(dialogue: Dialogue, system: str | None = None) -> Conversation:
    """The finished conversation."""
    conversation = Conversation(system=system)
    for turn in dialogue_turns(dialogue):
        for media in turn.media:
            conversation.add_media(media)
        conversation.ask(turn.question)
        conversation.answer(turn.answer)
    return conversation


def dialogue_example(tokenizer: Tokenizer, dialogue: Dialogue) -> TrainingExample:
    """Ids and labels of a dialogue as serving renders it, without a system text; the spans are the media's words."""
    turns = dialogue_turns(dialogue)
    example = training_example(tokenizer, turns, num_video_tokens=0, num_audio_tokens=0, template=TEMPLATE, system="")
    prompt = dialogue_conversation(dialogue, system="").prompt()
    kinds: dict[str | None, MediumKind] = {dialogue.sound_words: "audio"}
    kinds |= {dialogue.video_words or dialogue.image_words: "video"}
    return replace(example, spans=list(_spans_of_words(tokenizer, prompt, kinds)))


def caption_document(tokenizer: Tokenizer, words: str, caption: str) -> TrainingExample:
    """Ids and labels of a stage 1 row: BOS, the medium in words (the span), the caption and its end."""
    example = caption_example(
        tokenizer,
        caption,
        prompt=[words],
        end_sym=END_OF_ANSWER,
        max_text_tokens=MAX_CAPTION_TOKENS,
        num_video_tokens=0,
        num_audio_tokens=0,
    )
    return replace(example, spans=list(_spans_of_words(tokenizer, [words], {words: "video"})))


def _spans_of_words(tokenizer: Tokenizer, prompt: Prompt, kinds: Mapping[str | None, MediumKind]) -> Iterator[Span]:
    """Where the segments that are a medium's words (``kinds`` has them) stand among the prompt's ids."""
    start = 0
    for index, segment in enumerate(prompt):
        if isinstance(segment, Slot):
            raise TypeError("a document's media are told in words")
        has_bos = index == 0
        length = len(tokenizer.encode(segment, add_bos=has_bos))
        if segment in kinds:
            yield Span(kinds[segment], start + has_bos, length - has_bos)
        start += length
