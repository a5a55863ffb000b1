"""The part of the processor that takes messages and gives answers: chat template, assistant masks, decoding."""

# B prompts, L prompt length

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

import numpy as np
import torch
from transformers import ProcessorMixin
from transformers.utils.chat_template_utils import render_jinja_template

from video_llama.conversation import AUDIO_PLACE, TEMPLATES, VIDEO_PLACE, Template, TextGuard
from video_llama.processors.chat_messages import MessageReader, ReadConversation
from video_llama.processors.frontends import SoundProcessor
from video_llama.processors.media_places import Place, assign_media, insert_sentences, shifted, with_insertions
from video_llama.processors.nested_inputs import given_audio, given_images, given_videos
from video_llama.processors.processing_options import ReadingOptions, VideoLlamaProcessorKwargs, option_names
from video_llama.processors.settings import ModelNumbers, ProcessorSettings
from video_llama.processors.video_processor import SampledVideo

BYTE = re.compile(r"<0x[0-9A-F]{2}>")
"""A piece of SentencePiece that is one byte."""
MARK = "\N{LOWER ONE EIGHTH BLOCK}"
"""The space in SentencePiece's pieces."""


class MessagesMixin(ProcessorMixin):
    """Chat template, assistant masks and decoding of ``VideoLlamaProcessor``."""

    settings: ProcessorSettings
    numbers: ModelNumbers
    feature_extractor: SoundProcessor

    def apply_chat_template(  # type: ignore[override]
        self,
        conversation: Any,
        chat_template: str | None = None,
        tools: Any = None,
        documents: Any = None,
        add_generation_prompt: bool = False,
        continue_final_message: bool | str = False,
        return_assistant_tokens_mask: bool = False,
        tokenize: bool = False,
        return_tensors: Any = "auto",
        return_dict: bool = False,
        load_audio_from_video: bool | None = None,
        processor_kwargs: dict[str, Any] | None = None,
        raw_prompt: bool = False,
        **kwargs: Any,
    ) -> Any:
        """Return the prompt of messages or, with ``tokenize``, the model's inputs, with the media of the messages.

        The prompt is that of ``Chat``: a video with a sound track is read with its sound, and the times of the frames
        are part of the prompt. The arguments are those of transformers' processors, and:

        Args:
            load_audio_from_video: False ignores the sound of videos. True and None read it where there is one.
            processor_kwargs: options of :meth:`__call__`. Those can also be given directly.
            raw_prompt: put texts into the prompt as they are. By default control tokens and turns in them are
                neutralized by a space, as in ``Chat``.

        Raises:
            MediaError: a medium that cannot be used.
            ValueError: invalid options.
        """
        template = self._template_text(chat_template)
        options = dict(processor_kwargs or {})
        options |= {name: kwargs.pop(name) for name in list(kwargs) if name in option_names()}
        kwargs.pop("sanitize_control_tokens", None)  # done by default
        conversations, is_batched = _batch_of(conversation)
        guard = None if raw_prompt or chat_template is not None else self._guard()
        reader = self._reader(options, no_audio=load_audio_from_video is False)
        read = [reader.read(messages, guard, with_media=tokenize) for messages in conversations]
        rendered: Any = render_jinja_template(
            conversations=[each.messages for each in read],
            tools=tools,
            documents=documents,
            chat_template=template,
            return_assistant_tokens_mask=return_assistant_tokens_mask,
            continue_final_message=continue_final_message,
            add_generation_prompt=add_generation_prompt,
            **{**self.tokenizer.special_tokens_map, **kwargs},
        )
        prompts, marks = rendered
        if not tokenize:
            return prompts if is_batched else prompts[0]
        media = _media_of(read, options)
        prompts, marks = self._with_sentences(prompts, marks, media)
        if return_tensors != "auto":
            options["return_tensors"] = return_tensors
        if media["audio"] is not None:
            self._set_rate(options)
        if return_assistant_tokens_mask:
            options |= {"return_offsets_mapping": True, "return_text_replacement_offsets": True}
        if self.tokenizer.bos_token and all(prompt.startswith(self.tokenizer.bos_token) for prompt in prompts):
            options["add_special_tokens"] = False
        inputs = self(text=prompts if is_batched else prompts[0], **media, **options)
        if return_assistant_tokens_mask:
            _add_assistant_masks(inputs, marks)
        return inputs if return_dict else inputs["input_ids"]

    def _template_text(self, name: str | None) -> str:
        own = self.chat_template
        if isinstance(own, dict) and (name or "default") in own:
            return str(own[name or "default"])
        if name is not None:
            return name
        if not isinstance(own, str):
            raise ValueError("The processor has no chat template. Give chat_template.")
        return own

    def _guard(self) -> TextGuard | None:
        template = TEMPLATES.get(self.numbers.prompt_template)
        special = [*self.tokenizer.all_special_tokens, VIDEO_PLACE, AUDIO_PLACE]
        return None if template is None else TextGuard.of(template, special)

    def _reader(self, options: Mapping[str, Any], *, no_audio: bool) -> MessageReader:
        merged = self._merge_kwargs(
            VideoLlamaProcessorKwargs,  # type: ignore[arg-type]
            tokenizer_init_kwargs=self.tokenizer.init_kwargs,
            **_without_media(options),
        )
        reading = ReadingOptions.of(merged, no_audio=no_audio)
        return MessageReader(self.settings, self.numbers, reading, self.feature_extractor.processor.cut)

    def _with_sentences(self, prompts: list[str], marks: Any, media: dict[str, Any]) -> tuple[list[str], Any]:
        """Insert the sentences about frames, and move the marks of answers accordingly."""
        given = given_images(media["images"]), given_videos(media["videos"]), given_audio(media["audio"])
        if not any(each.items for each in given):
            return prompts, marks
        read = [each if isinstance(each, SampledVideo) else None for each in given[1].items]

        def sentence(place: Place) -> str:
            video = read[place.index]
            return "" if video is None else video.message

        results, moved = [], []
        for row, (prompt, places) in enumerate(zip(prompts, assign_media(prompts, *given), strict=True)):
            inserted = insert_sentences(prompt, places, sentence)
            results.append(with_insertions(prompt, inserted))
            spans = marks[row] if marks else []
            moved.append([(shifted(start, inserted), shifted(end, inserted)) for start, end in spans])
        return results, moved

    def _set_rate(self, options: dict[str, Any]) -> None:
        """Name the rate at which sound is processed, where the caller left it open."""
        rate = self.settings.sampling_rate
        nested = options.get("audio_kwargs")
        if nested is not None and "sampling_rate" in nested:
            options["audio_kwargs"] = {**nested, "sampling_rate": nested["sampling_rate"] or rate}
        elif options.get("sampling_rate") is None:
            options["sampling_rate"] = rate

    def decode(self, *args: Any, **kwargs: Any) -> Any:
        """Return the text of token ids, as the tokenizer does. With ``skip_special_tokens=True``, ids without a
        beginning (an answer) give the answer as ``Chat`` shows it: up to the stop string, without outer spaces."""
        text = self.tokenizer.decode(*args, **kwargs)
        if not kwargs.get("skip_special_tokens"):
            return text
        ids = args[0] if args else kwargs["token_ids"]
        return self._answers(ids, text) if isinstance(text, list) else self._answers([ids], [text])[0]

    def batch_decode(self, *args: Any, **kwargs: Any) -> list[str]:
        """Return the texts of rows of token ids; see :meth:`decode`."""
        texts: list[str] = self.tokenizer.batch_decode(*args, **kwargs)
        if not kwargs.get("skip_special_tokens"):
            return texts
        return self._answers(args[0] if args else kwargs["sequences"], texts)

    def post_process_image_text_to_text(
        self, generated_outputs: Any, skip_special_tokens: bool = True, **kwargs: Any
    ) -> list[str]:
        """Return the texts of generated ids, as :meth:`decode` does; those with a prompt end before the stop string.

        Pipelines call it.
        """
        texts = self.batch_decode(generated_outputs, skip_special_tokens=skip_special_tokens, **kwargs)
        template = TEMPLATES.get(self.numbers.prompt_template)
        if not skip_special_tokens or template is None:
            return texts
        return [text.removesuffix(template.stop_string) for text in texts]

    def _answers(self, rows: Any, texts: list[str]) -> list[str]:
        template = TEMPLATES.get(self.numbers.prompt_template)
        bos = self.tokenizer.bos_token_id
        answers = []
        for row, text in zip(rows_of(rows), texts, strict=True):
            if template is not None and not _has_beginning(row, bos, self.tokenizer.pad_token_id):
                tokens = self.tokenizer.convert_ids_to_tokens(row, skip_special_tokens=True)
                has_bytes = any(BYTE.fullmatch(token) for token in tokens)
                text = answer_text(text_of_pieces(tokens) if has_bytes else text, template)
            answers.append(text)
        return answers


def _without_media(options: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in options.items() if name not in ("images", "videos", "audio")}


def _batch_of(conversation: Any) -> tuple[list[Any], bool]:
    first = conversation[0] if len(conversation) else None
    if isinstance(first, (list, tuple)) or hasattr(first, "messages"):
        return [getattr(each, "messages", each) for each in conversation], True
    return [conversation], False


def _media_of(read: list[ReadConversation], options: dict[str, Any]) -> dict[str, Any]:
    """Return the media of the messages for each prompt, or those that were given beside the messages."""
    found: dict[str, Any] = {
        "images": [each.images for each in read],
        "videos": [each.videos for each in read],
        "audio": [each.sounds for each in read],
    }
    given = {name: options.pop(name, None) for name in found}
    return {name: rows if any(rows) else given[name] for name, rows in found.items()}


def _add_assistant_masks(inputs: Any, marks: Any) -> None:
    """Add ``assistant_masks``: 1 for the tokens of the answers and of their ends."""
    offsets: list[Any] = rows_of(inputs.pop("offset_mapping"))
    replaced = inputs.pop("text_replacement_offsets")
    masks = []
    for row, spans, edits in zip(offsets, marks, replaced, strict=True):

        def moved(position: int, edits: Any = edits) -> int:
            gains = [edit["new_span"][1] - edit["span"][1] for edit in edits if edit["span"][1] <= position]
            return int(position + (gains[-1] if gains else 0))

        places = [(moved(start), moved(end)) for start, end in spans]
        masks.append([int(any(start < last and end > first for first, last in places)) for start, end in row])
    inputs["assistant_masks"] = as_like(masks, inputs["input_ids"])


def as_like(rows: list[list[int]], ids: Any) -> Any:
    """Return rows as a tensor, an array or lists, as ``ids`` are."""
    if isinstance(ids, torch.Tensor):
        return torch.tensor(rows)
    return np.asarray(rows) if isinstance(ids, np.ndarray) else rows


def answer_text(text: str, template: Template) -> str:
    """Return the text before the stop string and after the last name of the assistant, without outer spaces."""
    return text.split(template.stop_string)[0].split(f"{template.roles[1]}:")[-1].strip()


def _has_beginning(row: list[int], bos: int | None, pad: int | None) -> bool:
    """Whether ids are a prompt: the first id after the padding is the beginning of a text."""
    return next((token for token in row if token != pad), None) == bos


def text_of_pieces(tokens: Sequence[str]) -> str:
    """Return the text of SentencePiece's pieces. Every byte that is not part of a character becomes U+FFFD.

    The tokenizers library replaces each byte of a run if any of them is invalid.
    """
    text = ""
    for is_byte, run in groupby(tokens, key=lambda token: BYTE.fullmatch(token) is not None):
        pieces = list(run)
        text += _characters(bytes(int(p[3:5], 16) for p in pieces)) if is_byte else "".join(pieces).replace(MARK, " ")
    return text.removeprefix(" ")


def _characters(data: bytes) -> str:
    text, at = "", 0
    while at < len(data):
        for length in (1, 2, 3, 4):
            try:
                text += data[at : at + length].decode()
            except UnicodeDecodeError:
                continue
            break
        else:
            text, length = text + "\N{REPLACEMENT CHARACTER}", 1
        at += length
    return text


def rows_of(ids: Any) -> list[list[int]]:
    """Return rows of token ids as lists."""
    return [row.tolist() if hasattr(row, "tolist") else list(row) for row in ids]
