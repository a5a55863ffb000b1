"""Dialogues become the prompts that the model is served, with media told in words; and token ids with labels.

In: a ``Dialogue`` (plain data) or a caption pair. Out: a ``Conversation``, or a ``TrainingExample``. The words stand
where a medium's tokens will, as a segment of their own, so the language model learns the very prompts of serving.
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
    Sees,
    question,
)
from video_llama.miniature.world import sample_scene

Modality = Literal["audio_video", "video", "image", "audio", "text"]
SpanKind = Literal["video", "audio"]

TEMPLATE = "default"
END_OF_ANSWER = "###"
MAX_CAPTION_TOKENS = 64


@dataclass(frozen=True)
class Dialogue:
    """One training document as plain data: what stands in each media slot, and the turns.

    ``video_words``, ``image_words``, ``sound_words``: None where there is no such slot. ``frame_seconds``: the times
    for "The video contains ... frames" after a video without sound; empty leaves that sentence out.
    """

    medium: Modality
    turns: tuple[QA, ...]
    video_words: str | None = None
    image_words: str | None = None
    sound_words: str | None = None
    frame_seconds: tuple[float, ...] = ()


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
CHAT_SHARE = 0.7  # of the dialogues without a medium
SOUND_SHARES = {"matched": 0.45, "mismatched": 0.45, "single": 0.1}
SENTENCE_SHARE = 0.7  # of the videos without sound
FRAME_COUNTS = (8, 8, 8, 8, 4, 16)


def _pick_kind(rng: np.random.Generator, medium: Modality, hard_share: float) -> str:
    if HARD_KINDS_OF[medium] and rng.random() < hard_share:
        return choose(rng, HARD_KINDS_OF[medium])
    groups = MEDIA_KINDS[medium]
    chosen = int(rng.choice(len(groups), p=[share for _, share in groups]))
    return choose(rng, groups[chosen][0])


def _frame_seconds(rng: np.random.Generator) -> tuple[float, ...]:
    """The times of frames spread evenly over a clip of any length: they tell nothing about what happens in it."""
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
    """Draw a document for the language model, in which media are told in words.

    Args:
        rng: source of chance; the same state gives the same document.
        two_part_share: how many scenes show two shapes one after the other.
        hard_share: how many questions come from ``HARD_KINDS`` alone (order, comparisons, colour, shape).
        max_turns: 1 to this many turns, each number equally likely.
        media_shares: which media there are, as shares that sum to 1.
        named_share: how many questions about one of two colours name the shape.
    """
    media = list(media_shares)
    medium = media[int(rng.choice(len(media), p=list(media_shares.values())))]
    num_turns = int(rng.integers(1, max_turns + 1))
    if medium == "text" and rng.random() < CHAT_SHARE:
        return Dialogue(medium, tuple(_chat(rng) for _ in range(num_turns)))
    sort = list(SOUND_SHARES)[int(rng.choice(len(SOUND_SHARES), p=list(SOUND_SHARES.values())))]
    scene = sample_scene(rng, "any", sound=sort, two_part_share=two_part_share)  # type: ignore[arg-type]
    sees: Sees = "image" if medium == "image" else "video" if medium in ("audio_video", "video") else "nothing"
    hears = medium in ("audio_video", "audio")
    kinds = [_pick_kind(rng, medium, hard_share) for _ in range(num_turns)]
    return Dialogue(
        medium=medium,
        turns=tuple(question(scene, kind, rng, sees=sees, hears=hears, named_share=named_share) for kind in kinds),
        video_words=caption(scene, rng) if sees == "video" else None,
        image_words=image_caption(scene, rng) if sees == "image" else None,
        sound_words=sound_caption(scene.sounds, rng) if hears else None,
        frame_seconds=_frame_seconds(rng) if medium == "video" else (),
    )


def caption_pair(rng: np.random.Generator, *, two_part_share: float = 0.5, hears: bool = False) -> tuple[str, str]:
    """A bare caption document, as stage 1 trains: the words in the slot and the canonical caption after them.

    With ``hears`` the slot holds the words of a sound, and the caption names what makes it: "a circle".
    """
    scene = sample_scene(rng, "any", two_part_share=two_part_share)
    if hears:
        return sound_caption(scene.sounds, rng), " and then ".join(f"a {shape}" for shape in scene.sounds)
    return caption(scene, rng), plain_caption(scene)


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
    kinds: dict[str | None, SpanKind] = {dialogue.sound_words: "audio"}
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


def _spans_of_words(tokenizer: Tokenizer, prompt: Prompt, kinds: Mapping[str | None, SpanKind]) -> Iterator[Span]:
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
