"""Dialogues become the prompts that the model is served, with media told in words; and token ids with labels.

In: a ``Dialogue`` (plain data) or a caption pair. Out: a ``Conversation``, or a ``TrainingExample``. The words stand
where a medium's tokens will, as a segment of their own, so the language model learns the very prompts of serving.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from video_llama.conversation import (
    Conversation,
    Media,
    Slot,
    Tokenizer,
    TrainingExample,
    Turn,
    caption_example,
    media_message,
    training_example,
)
from video_llama.miniature.language import Dialogue

TEMPLATE = "default"
END_OF_ANSWER = "###"
MAX_CAPTION_TOKENS = 64


def frames_sentence(seconds: tuple[float, ...]) -> str:
    """The reference's sentence about the frames' times; empty without times."""
    times = ", ".join(str(round(second, 1)) for second in seconds)
    return f"The video contains {len(seconds)} frames sampled at {times} seconds. " if seconds else ""


def media_of(dialogue: Dialogue) -> tuple[Media, ...]:
    """The one media message of a dialogue, in words; none for a dialogue without a medium."""
    return _media(dialogue, dialogue.video_words, dialogue.image_words, dialogue.sound_words)


def _media(
    dialogue: Dialogue, video: Slot | str | None, image: Slot | str | None, sound: Slot | str | None
) -> tuple[Media, ...]:
    if dialogue.medium == "text":
        return ()
    sentence = frames_sentence(dialogue.frame_seconds)
    return (media_message(video=video, audio=sound, image=image, sentence=sentence),)


def _turns(dialogue: Dialogue, media: tuple[Media, ...]) -> list[Turn]:
    """Questions with answers; the medium goes with the first."""
    return [Turn(qa.question, qa.answer, () if index else media) for index, qa in enumerate(dialogue.turns)]


def dialogue_conversation(dialogue: Dialogue) -> Conversation:
    """The finished conversation."""
    conversation = Conversation()
    for turn in _turns(dialogue, media_of(dialogue)):
        for media in turn.media:
            conversation.add_media(media)
        conversation.ask(turn.question)
        conversation.answer(turn.answer)
    return conversation


def dialogue_example(tokenizer: Tokenizer, dialogue: Dialogue) -> TrainingExample:
    """Ids and labels of a dialogue, exactly as serving renders it; its spans are where the media's words stand."""
    seen = dialogue.video_words if dialogue.video_words is not None else dialogue.image_words
    words = {kind: tokenizer.encode(text or "") for kind, text in (("video", seen), ("audio", dialogue.sound_words))}
    media = _media(
        dialogue,
        None if dialogue.video_words is None else Slot("video"),
        None if dialogue.image_words is None else Slot("video"),
        None if dialogue.sound_words is None else Slot("audio"),
    )
    example = training_example(
        tokenizer,
        _turns(dialogue, media),
        num_video_tokens=len(words["video"]),
        num_audio_tokens=len(words["audio"]),
        template=TEMPLATE,
        system="",
    )
    return _filled(example, words)


def caption_document(tokenizer: Tokenizer, words: str, caption: str) -> TrainingExample:
    """Ids and labels of a stage 1 row: BOS, the medium in words, the caption and its end; its span is the words."""
    ids = tokenizer.encode(words)
    example = caption_example(
        tokenizer,
        caption,
        prompt=[Slot("video")],
        end_sym=END_OF_ANSWER,
        max_text_tokens=MAX_CAPTION_TOKENS,
        num_video_tokens=len(ids),
        num_audio_tokens=0,
    )
    return _filled(example, {"video": ids})


def _filled(example: TrainingExample, words: Mapping[str, Sequence[int]]) -> TrainingExample:
    """The example with words in its slots."""
    ids = list(example.input_ids)
    for span in example.spans:
        ids[span.start : span.start + span.length] = words[span.kind]
    return replace(example, input_ids=ids)
