"""The text and label masks with which the reference's checkpoints were trained.

This dialect exists for parity (``labels: reference`` in the published recipes). It differs from the serving prompt:

- The Vicuna text begins with two newlines and has one before every ``###``.
- Media and question are joined by one space instead of two.
- The placeholders are tokenised as part of the text.
- Everything is truncated at 512 tokens, including media.
- The masks count the tokens of separately encoded pieces. Therefore ``##``, ``#`` of every human turn has labels
  (Vicuna), and all labels are -100 if an answer contains ``[/INST] `` (LLaMA-2).

Sources: ``video_instruct_dataset.py`` 255-370, ``llava_instruct_dataset.py``; golden NOTES.md 7.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

from video_llama.conversation.conversation_video import PLACEHOLDER, MessageContent, Slot, Words, prompt_text, render
from video_llama.conversation.templates import TEMPLATES
from video_llama.conversation.tokenization import AUDIO_PLACEHOLDER, Span, Tokenizer
from video_llama.conversation.training_examples import IGNORE_INDEX, IMAGE_MARK, TrainingExample, TrainingTurn

MAX_LENGTH = 512
_VICUNA = TEMPLATES["dataset.video_conversation"]
_LLAMA_2 = TEMPLATES["dataset.llama_v2_video_conversation"]
_HEADER = "\n\n"
_END_OF_INSTRUCTION = "[/INST] "
_NUM_BOUNDARY_TOKENS = 2
"""Vicuna: tokens of a human turn that keep their labels. LLaMA-2: BOS and the final space mark of an instruction."""


def reference_example(
    tokenizer: Tokenizer,
    turns: Sequence[TrainingTurn],
    is_llama_2: bool,
    num_video_tokens: int,
    num_audio_tokens: int,
    max_length: int = MAX_LENGTH,
) -> TrainingExample:
    """Return the reference's ids and labels. Media beyond ``max_length`` are truncated; spans cover the remainder."""
    runs = {"video": PLACEHOLDER * num_video_tokens, "audio": AUDIO_PLACEHOLDER * num_audio_tokens}
    questions = [_question(turn, runs) for turn in turns]
    answers = [turn.answer.replace(IMAGE_MARK, _image(turn, runs)) for turn in turns]
    build = _llama_2 if is_llama_2 else _vicuna
    text, ids, labels = build(tokenizer, questions, answers, max_length)
    return TrainingExample(ids, labels, _spans(tokenizer, ids), text)


def _question(turn: TrainingTurn, runs: dict[str, str]) -> str:
    if IMAGE_MARK in turn.question:
        return turn.question.replace(IMAGE_MARK, _image(turn, runs))
    return "".join(_written(media.content, runs) for media in turn.media) + turn.question


def _image(turn: TrainingTurn, runs: dict[str, str]) -> str:
    """Return the image's text inside a LLaVA question: its message without the trailing space."""
    written = [_written(media.content, runs).rstrip() for media in turn.media]
    return "".join(written) or f"<Image>{runs['video']}</Image>"


def _written(content: MessageContent, runs: dict[str, str]) -> str:
    def text(part: str | Slot | Words) -> str:
        if isinstance(part, Slot):
            return runs[part.kind]
        return part.text if isinstance(part, Words) else part

    return "".join(text(part) for part in content)


def _vicuna(
    tokenizer: Tokenizer, questions: Sequence[str], answers: Sequence[str], max_length: int
) -> tuple[str, list[int], list[int]]:
    human, assistant = _VICUNA.roles
    rounds = zip(questions, answers, strict=True)
    sentences = [s for q, a in rounds for s in (f"###{human}: {q}\n", f"###{assistant}: {a}\n")]
    text = _HEADER + "".join(sentences) + "###"

    def encode(part: str) -> list[int]:
        return tokenizer.encode(part, add_bos=True, placeholders=True)[:max_length]

    def length(part: str) -> int:
        return sum(token != tokenizer.unk_id for token in encode(part))

    ids = encode(text)
    labels = list(ids)
    start = length(_HEADER)
    _ignore(labels, 0, start)
    for index, sentence in enumerate(sentences):
        end = start + length(sentence)
        if index % 2 == 0:
            _ignore(labels, start + _NUM_BOUNDARY_TOKENS, end)
        start = end
    return text, ids, labels


def _llama_2(
    tokenizer: Tokenizer, questions: Sequence[str], answers: Sequence[str], max_length: int
) -> tuple[str, list[int], list[int]]:
    user, assistant = _LLAMA_2.roles
    rounds = zip(questions, answers, strict=True)
    messages: list[tuple[str, MessageContent | None]] = [
        m for q, a in rounds for m in ((user, (q,)), (assistant, (a,)))
    ]
    text = prompt_text(render(_LLAMA_2, messages))

    def encode(part: str) -> list[int]:
        return tokenizer.encode(part, add_bos=True, placeholders=True)

    ids = encode(text)[:max_length]
    labels = list(ids)
    start = 1
    _ignore(labels, 0, start)
    for part in text.split(_LLAMA_2.stop_string):
        halves = part.split(_END_OF_INSTRUCTION)
        if len(halves) != 2:  # the end of the text, or an answer that contains "[/INST] ": no further labels
            break
        _ignore(labels, start, start + len(encode(halves[0] + _END_OF_INSTRUCTION)) - _NUM_BOUNDARY_TOKENS)
        start += len(encode(part))
    _ignore(labels, start, len(labels))
    return text, ids, labels


def _ignore(labels: list[int], start: int, end: int) -> None:
    for index in range(start, min(end, len(labels))):
        labels[index] = IGNORE_INDEX


def _spans(tokenizer: Tokenizer, ids: Sequence[int]) -> list[Span]:
    """Return the spans of placeholder ids in ``ids``."""
    spans: list[Span] = []
    start = 0
    for token, run in groupby(ids):
        length = len(list(run))
        if token == tokenizer.video_token_id:
            spans.append(Span("video", start, length))
        elif token == tokenizer.audio_token_id:
            spans.append(Span("audio", start, length))
        start += length
    return spans
