"""Dialogues for pre-training of the language model: random generation, and conversion to token ids and labels.

In a dialogue, text describes the media. It is at the position of the media tokens, as a separate segment, so that the
language model is trained on the prompts of inference.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

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
from video_llama.miniature.captions import caption, choose, image_caption, plain_caption, sound_caption
from video_llama.miniature.question_wordings import CHAT
from video_llama.miniature.questions import (
    HARD_KINDS,
    HEARING_KINDS,
    JOINT_KINDS,
    NAMED_SHARE,
    QA,
    SEEING_KINDS,
    Visual,
    question,
)
from video_llama.miniature.world import sample_scene
from video_llama.processors.video_processor import frames_sentence

Modality = Literal["audio_video", "video", "image", "audio", "text"]
SpanKind = Literal["video", "audio"]

TEMPLATE = "default"
END_OF_ANSWER = "###"
MAX_CAPTION_TOKENS = 64


@dataclass(frozen=True)
class Dialogue:
    """One training document."""

    medium: Modality
    """The media that the dialogue is about."""
    turns: tuple[QA, ...]
    """Questions and answers."""
    video_words: str | None = None
    """Text in place of the video."""
    image_words: str | None = None
    """Text in place of the image."""
    sound_words: str | None = None
    """Text in place of the audio."""
    frame_seconds: tuple[float, ...] = ()
    """Times in the sentence "The video contains ... frames"; if empty, the sentence is left out."""


MEDIA_SHARES: Mapping[Modality, float] = {"audio_video": 0.4, "video": 0.31, "image": 0.08, "audio": 0.18, "text": 0.03}
MEDIA_KINDS: dict[Modality, tuple[tuple[tuple[str, ...], float], ...]] = {
    "audio_video": ((SEEING_KINDS, 0.45), (HEARING_KINDS, 0.4), (JOINT_KINDS, 0.15)),
    "video": ((SEEING_KINDS, 0.86), (HEARING_KINDS, 0.09), (JOINT_KINDS, 0.05)),
    "image": ((SEEING_KINDS, 0.86), (HEARING_KINDS, 0.09), (JOINT_KINDS, 0.05)),
    "audio": ((HEARING_KINDS, 0.75), (SEEING_KINDS, 0.2), (JOINT_KINDS, 0.05)),
    "text": ((SEEING_KINDS, 0.5), (HEARING_KINDS, 0.5)),
}
HARD_KINDS_OF: dict[Modality, tuple[str, ...]] = {
    "audio_video": HARD_KINDS,
    "video": ("order", "yes_no", "colour", "shape"),
    "image": ("yes_no", "colour", "shape"),
    "audio": ("hear", "source"),
    "text": (),
}
CHAT_SHARE = 0.7  # share of dialogues without a medium that are small talk
SOUND_SHARES = {"matched": 0.45, "mismatched": 0.45, "single": 0.1}
SENTENCE_SHARE = 0.7  # share of videos without sound that have the sentence about frame times
FRAME_COUNTS = (8, 8, 8, 8, 4, 16)


def _pick_kind(rng: np.random.Generator, medium: Modality, hard_share: float) -> str:
    if HARD_KINDS_OF[medium] and rng.random() < hard_share:
        return choose(rng, HARD_KINDS_OF[medium])
    groups = MEDIA_KINDS[medium]
    chosen = int(rng.choice(len(groups), p=[share for _, share in groups]))
    return choose(rng, groups[chosen][0])


def _frame_seconds(rng: np.random.Generator) -> tuple[float, ...]:
    """Return the times of frames of a clip of random length, or no times. They do not depend on the scene."""
    if rng.random() >= SENTENCE_SHARE:
        return ()
    count = FRAME_COUNTS[int(rng.integers(len(FRAME_COUNTS)))]
    total, rate = int(rng.integers(20, 81)), 10
    return tuple(int(index * total / count) / rate for index in range(count))


def _chat(rng: np.random.Generator) -> QA:
    questions, answer = CHAT[int(rng.integers(len(CHAT)))]
    return QA("chat", choose(rng, questions), answer)


def dialogue(
    rng: np.random.Generator,
    *,
    two_part_share: float = 0.5,
    hard_share: float = 0.5,
    max_turns: int = 3,
    media_shares: Mapping[Modality, float] = MEDIA_SHARES,
    named_share: float = NAMED_SHARE,
) -> Dialogue:
    """Generate a random dialogue.

    Args:
        rng: random generator; the same state gives the same dialogue.
        two_part_share: share of scenes with two shapes, one after the other.
        hard_share: share of questions of a hard kind (``HARD_KINDS_OF``).
        max_turns: largest number of turns; all numbers from 1 have the same probability.
        media_shares: probability of each combination of media.
        named_share: share of questions about one of two colours that name the shape.
    """
    media = list(media_shares)
    medium = media[int(rng.choice(len(media), p=list(media_shares.values())))]
    num_turns = int(rng.integers(1, max_turns + 1))
    if medium == "text" and rng.random() < CHAT_SHARE:
        return Dialogue(medium, tuple(_chat(rng) for _ in range(num_turns)))
    relation = list(SOUND_SHARES)[int(rng.choice(len(SOUND_SHARES), p=list(SOUND_SHARES.values())))]
    scene = sample_scene(rng, "any", sound=relation, two_part_share=two_part_share)  # type: ignore[arg-type]
    visual: Visual = "image" if medium == "image" else "video" if medium in ("audio_video", "video") else "nothing"
    has_audio = medium in ("audio_video", "audio")
    kinds = [_pick_kind(rng, medium, hard_share) for _ in range(num_turns)]
    return Dialogue(
        medium=medium,
        turns=tuple(
            question(scene, kind, rng, visual=visual, has_audio=has_audio, named_share=named_share) for kind in kinds
        ),
        video_words=caption(scene, rng) if visual == "video" else None,
        image_words=image_caption(scene, rng) if visual == "image" else None,
        sound_words=sound_caption(scene.sounds, rng) if has_audio else None,
        frame_seconds=_frame_seconds(rng) if medium == "video" else (),
    )


def caption_pair(rng: np.random.Generator, *, two_part_share: float = 0.5, has_audio: bool = False) -> tuple[str, str]:
    """Generate a caption document, as in stage 1: the text in place of the medium, and the canonical caption.

    With ``has_audio`` the medium is a sound, and the caption names the shape that makes it: "a circle".
    """
    scene = sample_scene(rng, "any", two_part_share=two_part_share)
    if has_audio:
        return sound_caption(scene.sounds, rng), " and then ".join(f"a {shape}" for shape in scene.sounds)
    return caption(scene, rng), plain_caption(scene)


def media_of(dialogue: Dialogue) -> tuple[MediaMessage, ...]:
    """Return the media message of a dialogue, with text in place of the media; empty without a medium."""
    if dialogue.medium == "text":
        return ()
    sentence = frames_sentence(dialogue.frame_seconds) if dialogue.frame_seconds else ""
    message = media_message(
        video=dialogue.video_words, audio=dialogue.sound_words, image=dialogue.image_words, sentence=sentence
    )
    return (message,)


def dialogue_turns(dialogue: Dialogue) -> list[TrainingTurn]:
    """Return the turns of a dialogue. The first turn contains the media."""
    media = media_of(dialogue)
    return [TrainingTurn(qa.question, qa.answer, () if index else media) for index, qa in enumerate(dialogue.turns)]


def dialogue_conversation(dialogue: Dialogue, system: str | None = None) -> Conversation:
    """Return the dialogue as a conversation."""
    conversation = Conversation(system=system)
    for turn in dialogue_turns(dialogue):
        for media in turn.media:
            conversation.add_media(media)
        conversation.ask(turn.question)
        conversation.answer(turn.answer)
    return conversation


def dialogue_example(tokenizer: Tokenizer, dialogue: Dialogue) -> TrainingExample:
    """Return token ids and labels of a dialogue, without a system prompt. The spans are the text in place of media."""
    turns = dialogue_turns(dialogue)
    example = training_example(tokenizer, turns, num_video_tokens=0, num_audio_tokens=0, template=TEMPLATE, system="")
    prompt = dialogue_conversation(dialogue, system="").prompt()
    kinds: dict[str | None, SpanKind] = {dialogue.sound_words: "audio"}
    kinds |= {dialogue.video_words or dialogue.image_words: "video"}
    return replace(example, spans=list(_spans_of_words(tokenizer, prompt, kinds)))


def caption_document(tokenizer: Tokenizer, words: str, caption: str) -> TrainingExample:
    """Return token ids and labels of a caption document: BOS, text in place of the medium (the span), the caption."""
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


def _spans_of_words(tokenizer: Tokenizer, prompt: Prompt, kinds: Mapping[str | None, SpanKind]) -> Iterator[Span]:
    """Yield the spans of the prompt's ids whose text is in place of a medium; ``kinds`` maps such text to its kind."""
    start = 0
    for index, segment in enumerate(prompt):
        if isinstance(segment, Slot):
            raise TypeError("a prompt of a dialogue has no slots for media tokens")
        has_bos = index == 0
        length = len(tokenizer.encode(segment, add_bos=has_bos))
        if segment in kinds:
            yield Span(kinds[segment], start + has_bos, length - has_bos)
        start += length
