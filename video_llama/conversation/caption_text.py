"""Token ids and labels of captions, for stage 1 and for aligned image captions.

The reference's layout is [BOS][medium, with or without an instruction around it][caption + end symbol], with the loss
on the caption (``models/video_llama.py``: ``prompt_wrap``, ``forward``; golden ``text.json``: prompt_wrap,
caption_targets).
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
    """Insert an instruction with one ``<ImageHere>`` into a template such as ``###Human: {} ###Assistant: ``.

    Raises ConfigError unless the template has exactly one ``{}`` and the instruction exactly one ``<ImageHere>``.
    """
    if template.count("{}") != 1:
        raise ConfigError(f"prompt_template {template!r} must contain exactly one {{}}, the place of the instruction.")
    halves = template.replace("{}", instruction).split(PLACEHOLDER)
    if len(halves) != 2:
        raise ConfigError(f"The instruction {instruction!r} must contain {PLACEHOLDER} exactly once.")
    return [halves[0], Slot(kind), halves[1]]


def prompt_wrap(tokenizer: Tokenizer, prompt: Prompt) -> list[list[int]]:
    """Return the ids of the text segments around the medium, without BOS."""
    return [tokenizer.encode(part) for part in prompt if isinstance(part, str)]


def caption_ids(
    tokenizer: Tokenizer, caption: str, *, end_sym: str, max_text_tokens: int, dialect: Dialect = "serving"
) -> list[int]:
    """Return the ids of caption and end symbol, at most ``max_text_tokens``.

    ``serving`` keeps the end symbol of a truncated caption. ``reference`` drops it, so that truncated captions train
    the model to continue.
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
    """Return the caption part of a batch, padded on the right with ``pad_id``.

    ``reference`` sets every label that equals the padding id to -100, including an ``<unk>`` in the text itself.
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
    """Return one caption as a complete row: BOS, prompt (``[Slot("video")]`` without text), caption and end symbol.

    Only the caption and its end symbol have labels.
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
