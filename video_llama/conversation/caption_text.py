"""Captions in, token ids with labels out: the texts of the first stage and of the aligned image captions.

The reference's layout is [BOS][the medium, in an instruction or bare][caption + end symbol], with the loss on the
caption (``models/video_llama.py``: ``prompt_wrap``, ``forward``; golden ``text.json``: prompt_wrap, caption_targets).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from video_llama.conversation.conversation_video import PLACEHOLDER, Prompt, Slot, prompt_text
from video_llama.conversation.tokenization import Tokenizer, encode_prompt
from video_llama.conversation.training_examples import IGNORE_INDEX, PaddedBatch, TrainingExample
from video_llama.errors import ConfigError

Dialect = Literal["serving", "reference"]


def caption_prompt(instruction: str, template: str = "{}", kind: Literal["video", "audio"] = "video") -> Prompt:
    """An instruction with one ``<ImageHere>``, put into a template such as ``###Human: {} ###Assistant: ``.

    Raises ConfigError when either has not exactly one place to fill.
    """
    if template.count("{}") != 1:
        raise ConfigError(f"prompt_template {template!r} needs exactly one {{}}, where the instruction goes.")
    halves = template.replace("{}", instruction).split(PLACEHOLDER)
    if len(halves) != 2:
        raise ConfigError(f"The instruction {instruction!r} needs exactly one {PLACEHOLDER}, where the medium goes.")
    return [halves[0], Slot(kind), halves[1]]


def prompt_wrap(tokenizer: Tokenizer, prompt: Prompt) -> list[list[int]]:
    """Ids of the text segments around the medium, without BOS."""
    return [tokenizer.encode(part) for part in prompt if isinstance(part, str)]


def caption_ids(
    tokenizer: Tokenizer, caption: str, *, end_sym: str, max_text_tokens: int, dialect: Dialect = "serving"
) -> list[int]:
    """Ids of caption and end symbol, at most ``max_text_tokens``.

    Serving: a caption that is cut keeps its end symbol. Reference: the cut takes it away, so such a caption teaches the
    model to run on.
    """
    ids = tokenizer.encode(caption + end_sym)
    if len(ids) <= max_text_tokens:
        return ids
    if dialect == "reference":
        return ids[:max_text_tokens]
    bare = tokenizer.encode(caption)
    end = ids[len(bare) :] if ids[: len(bare)] == bare else tokenizer.encode(end_sym)
    return bare[: max_text_tokens - len(end)] + end


def caption_targets(
    tokenizer: Tokenizer, captions: Sequence[str], *, end_sym: str, max_text_tokens: int, dialect: Dialect = "serving"
) -> PaddedBatch:
    """The caption part of a batch, padded on the right with ``pad_id``.

    Reference: every label that equals the padding id is -100, also where it is a token of the text (an ``<unk>``).
    """
    rows = [
        caption_ids(tokenizer, caption, end_sym=end_sym, max_text_tokens=max_text_tokens, dialect=dialect)
        for caption in captions
    ]
    width = max(map(len, rows))
    ids = [row + [tokenizer.pad_id] * (width - len(row)) for row in rows]
    mask = [[1] * len(row) + [0] * (width - len(row)) for row in rows]
    if dialect == "reference":
        labels = [[IGNORE_INDEX if token == tokenizer.pad_id else token for token in row] for row in ids]
    else:
        labels = [row + [IGNORE_INDEX] * (width - len(row)) for row in rows]
    return PaddedBatch(ids, labels, mask)


def caption_example(
    tokenizer: Tokenizer,
    caption: str,
    *,
    prompt: Prompt,
    end_sym: str,
    max_text_tokens: int,
    num_video_tokens: int,
    num_audio_tokens: int,
    dialect: Dialect = "serving",
) -> TrainingExample:
    """One caption as a whole row: BOS, the prompt (``[Slot("video")]`` for a bare medium), caption and end symbol.

    The labels are the caption's and its end symbol's.
    """
    bos_and_prompt = encode_prompt(
        tokenizer, prompt, num_video_tokens=num_video_tokens, num_audio_tokens=num_audio_tokens
    )
    ids = caption_ids(tokenizer, caption, end_sym=end_sym, max_text_tokens=max_text_tokens, dialect=dialect)
    labels = list(ids)
    if dialect == "reference":
        labels = [IGNORE_INDEX if token == tokenizer.pad_id else token for token in ids]
    front = bos_and_prompt.input_ids
    text = prompt_text(prompt) + caption + end_sym
    return TrainingExample(front + ids, [IGNORE_INDEX] * len(front) + labels, bos_and_prompt.spans, text)
