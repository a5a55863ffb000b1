"""Convert questions and answers to token ids and labels, in one of two dialects.

``serving`` is the default: exactly the text that ``Conversation`` renders for serving, with labels only on the answers
and their end symbols. ``reference`` is the text on which Video-LLaMA's checkpoints were trained
(``datasets/datasets/video_instruct_dataset.py`` and ``llava_instruct_dataset.py``; golden ``text.json``: train). It is
implemented in ``training_reference.py``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from video_llama.conversation.conversation_video import Conversation, Prompt, prompt_text
from video_llama.conversation.templates import TEMPLATES, Style, Template
from video_llama.conversation.tokenization import EncodedPrompt, Tokenizer, common_length, encode_prompt
from video_llama.conversation.training_examples import IGNORE_INDEX, IMAGE_MARK, TrainingExample, TrainingTurn
from video_llama.conversation.training_reference import MAX_LENGTH, reference_example
from video_llama.errors import DataError


def training_example(
    tokenizer: Tokenizer,
    turns: Sequence[TrainingTurn],
    *,
    num_video_tokens: int,
    num_audio_tokens: int,
    template: Template | str = "default",
    system: str | None = None,
    dialect: Literal["serving", "reference"] = "serving",
    max_length: int | None = None,
) -> TrainingExample:
    """Return one conversation as ids and labels.

    ``template`` is a Template or a name in TEMPLATES. ``max_length`` truncates the end; None means no limit for
    ``serving`` and 512 for ``reference``. As in the reference, the ``reference`` dialect derives its template and
    system text from the template's style only.

    Raises DataError if there are no turns, and in the serving dialect if truncation would leave no answer or cut a
    medium.
    """
    chosen = TEMPLATES[template] if isinstance(template, str) else template
    if not turns:
        raise DataError("A training row has no question and answer. Drop the row or correct its annotation.")
    if dialect == "reference" and chosen.style is Style.TURNS:
        raise DataError(
            "labels: reference is the text of the reference's decoders; this one has its own chat template. Set labels "
            "to serving."
        )
    if dialect == "reference":
        length = MAX_LENGTH if max_length is None else max_length
        is_llama_2 = chosen.style is Style.LLAMA_2
        return reference_example(tokenizer, turns, is_llama_2, num_video_tokens, num_audio_tokens, length)
    example = _serving_example(tokenizer, turns, chosen, system, num_video_tokens, num_audio_tokens)
    return example if max_length is None else _cut(example, max_length)


def _serving_example(
    tokenizer: Tokenizer,
    turns: Sequence[TrainingTurn],
    template: Template,
    system: str | None,
    num_video_tokens: int,
    num_audio_tokens: int,
) -> TrainingExample:
    """Return the whole conversation. Labels reach from the start of each answer to the end of its end symbol."""

    def encode(prompt: Prompt) -> EncodedPrompt:
        return encode_prompt(tokenizer, prompt, num_video_tokens=num_video_tokens, num_audio_tokens=num_audio_tokens)

    prompts: list[tuple[Prompt, Prompt]] = []  # per turn: the prompt before and after the answer
    conversation = Conversation(template, resolve_system(template, system, turns))
    for turn in turns:
        for media in turn.media:
            conversation.add_media(media)
        conversation.ask(
            turn.question.replace(IMAGE_MARK, "").strip() if IMAGE_MARK in turn.question else turn.question
        )
        before = conversation.prompt()
        conversation.answer(turn.answer)
        prompts.append((before, conversation.prompt()))
    whole = encode(prompts[-1][1])
    labels = [IGNORE_INDEX] * len(whole.input_ids)
    for before, after in prompts:
        start = common_length(encode(before).input_ids, whole.input_ids)
        end = common_length(encode(after).input_ids, whole.input_ids)
        # A token that spans the end symbol and the following text belongs to the end symbol.
        while end < len(labels) and template.stop_string not in tokenizer.decode(whole.input_ids[start:end]):
            end += 1
        labels[start:end] = whole.input_ids[start:end]
    return TrainingExample(whole.input_ids, labels, whole.spans, prompt_text(prompts[-1][1]))


def resolve_system(template: Template, system: str | None, turns: Sequence[TrainingTurn]) -> str:
    """Return the system text of the whole conversation. The first medium decides it, in whichever turn it is."""
    conversation = Conversation(template, system)
    for media in [media for turn in turns for media in turn.media][:1]:
        conversation.add_media(media)
    return conversation.resolved_system


def _cut(example: TrainingExample, max_length: int) -> TrainingExample:
    """Return the first ``max_length`` tokens. Raises DataError if that cuts a medium or leaves no answer."""
    num_tokens = len(example.input_ids)
    if num_tokens <= max_length:
        return example
    labels = example.labels[:max_length]
    if all(label == IGNORE_INDEX for label in labels):
        raise DataError(
            f"A training row has {num_tokens} tokens and no answer within the first {max_length}. "
            "Raise max_length, or shorten the question."
        )
    if any(span.start + span.length > max_length for span in example.spans):
        raise DataError(
            f"A training row has {num_tokens} tokens and a medium beyond the first {max_length}. "
            "Raise max_length, or put the medium in an earlier turn."
        )
    return TrainingExample(example.input_ids[:max_length], labels, example.spans, example.text)
