"""Decode generated token ids to the answer's text, at once or as a stream.

The rules are the reference's (``conversation/conversation_video.py``, ``Chat.answer``; golden ``text.json``:
answer_postprocess, stopping): drop one leading ``<unk>`` and then one leading ``<s>``, cut the text at the template's
stop string, keep the part after the last "Assistant:", and strip whitespace.
"""

from __future__ import annotations

from collections.abc import Sequence

from video_llama.conversation.templates import Template
from video_llama.conversation.tokenization import Tokenizer

REFERENCE_DECODING: dict[str, int | float | bool] = {
    "max_new_tokens": 300,
    "num_beams": 1,
    "do_sample": True,
    "min_length": 1,
    "top_p": 0.9,
    "repetition_penalty": 1.0,
    "length_penalty": 1,
    "temperature": 1.0,
}
"""Sampling settings of the reference's ``Chat.answer``. Its transformers version also applies top_k 50 by default."""

_UNDECODABLE = "\N{REPLACEMENT CHARACTER}"


def without_start(tokenizer: Tokenizer, ids: Sequence[int]) -> list[int]:
    """Return the ids without the prefix that older versions of ``generate`` return: one ``<unk>``, then one ``<s>``."""
    start = 1 if ids and ids[0] == tokenizer.unk_id else 0
    start += len(ids) > start and ids[start] == tokenizer.bos_id
    return list(ids[start:])


def postprocess(tokenizer: Tokenizer, ids: Sequence[int], template: Template) -> str:
    """Return the answer's text, as shown to the user and stored in the history."""
    text = tokenizer.decode(without_start(tokenizer, ids))
    return _after_mark(text.split(template.stop_string)[0], template.answer_mark).strip()


def has_stop(tokenizer: Tokenizer, ids: Sequence[int], template: Template) -> bool:
    """Return whether the generated text contains the template's stop string, in any tokenisation."""
    return template.stop_string in tokenizer.decode(without_start(tokenizer, ids))


def stop_sequences(tokenizer: Tokenizer, template: Template) -> list[list[int]]:
    """Return the reference's stopping id sequences: the stop string at the start of a segment, and inside a text."""
    at_start = tokenizer.encode(template.stop_string)
    line = tokenizer.encode("\n")
    within = tokenizer.encode("\n" + template.stop_string)[len(line) :]
    return [at_start] if within == at_start else [at_start, within]


def _after_mark(text: str, mark: str | None) -> str:
    return text if mark is None else text.split(mark)[-1]


class StreamDecoder:
    """Incremental decoder: takes generated ids one at a time and returns text once no later id can change it.

    The decoder holds back a suffix that may be the beginning of the stop string or of "Assistant:", trailing
    whitespace, incomplete UTF-8 characters, and everything from a special token on. ``is_stopped`` becomes True when
    the stop string is complete. After ``finish``, the joined pieces equal ``answer``, which is ``postprocess`` of all
    ids. The exception is ``has_restarted``: the model generated "Assistant:" in the middle of its answer. The
    reference then discards the text before it, part of which was already returned.
    """

    def __init__(self, tokenizer: Tokenizer, template: Template) -> None:
        self._tokenizer, self._template = tokenizer, template
        self._ids: list[int] = []
        self._shown = ""
        self.is_stopped = False
        self.has_restarted = False

    @property
    def answer(self) -> str:
        """The answer in the ids pushed so far."""
        return postprocess(self._tokenizer, self._ids, self._template)

    def push(self, token: int) -> str:
        """Add the next id and return the text that is now final (often ""). Ids after the stop string are ignored."""
        if self.is_stopped:
            return ""
        self._ids.append(token)
        if has_stop(self._tokenizer, self._ids, self._template):
            self.is_stopped = True
            return self.finish()
        return self._show(self._certain_text())

    def finish(self) -> str:
        """Return the text still held back. Call it after the last id; after a stop string it returns ""."""
        return self._show(self.answer)

    def _certain_text(self) -> str:
        """Return the part of the answer that no later id can change, except by another "Assistant:"."""
        ids = without_start(self._tokenizer, self._ids)
        held = self._tokenizer.special_ids
        first_special = next((i for i, token in enumerate(ids) if token in held), len(ids))
        text = self._tokenizer.decode(ids[:first_special]).rstrip(_UNDECODABLE)
        mark = self._template.answer_mark
        for held_back in (self._template.stop_string, mark or ""):
            text = text[: len(text) - overlap(text, held_back)]
        return _after_mark(text, mark).strip()

    def _show(self, text: str) -> str:
        if not text.startswith(self._shown):
            self.has_restarted, self._shown = True, ""
        piece = text[len(self._shown) :]
        self._shown = text
        return piece


def overlap(text: str, mark: str) -> int:
    """Return the length of the longest proper prefix of ``mark`` that is a suffix of ``text``."""
    return next((n for n in range(min(len(mark) - 1, len(text)), 0, -1) if text.endswith(mark[:n])), 0)
