"""Generated token ids in, the answer's text out: whole, or piece by piece while it is being generated.

The rules are the reference's (``conversation/conversation_video.py``, ``Chat.answer``; golden ``text.json``:
answer_postprocess, stopping): one leading ``<unk>`` and then one leading ``<s>`` are dropped, the text is cut at the
template's stop string, what follows the last "Assistant:" is the answer, and whitespace around it is stripped.
"""

from __future__ import annotations

from collections.abc import Sequence

from video_llama.conversation.conversation_video import Template
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
"""How the reference's ``Chat.answer`` samples. Besides, its library's default cuts at top_k 50."""

_UNDECODABLE = "\N{REPLACEMENT CHARACTER}"


def without_start(tokenizer: Tokenizer, ids: Sequence[int]) -> list[int]:
    """Generated ids without the start that older ``generate`` returns: one ``<unk>``, then one ``<s>``."""
    start = 1 if ids and ids[0] == tokenizer.unk_id else 0
    start += len(ids) > start and ids[start] == tokenizer.bos_id
    return list(ids[start:])


def postprocess(tokenizer: Tokenizer, ids: Sequence[int], template: Template) -> str:
    """The answer in generated ids: what the user sees and what enters the history."""
    text = tokenizer.decode(without_start(tokenizer, ids))
    return text.split(template.stop_string)[0].split(_marker(template))[-1].strip()


def has_stop(tokenizer: Tokenizer, ids: Sequence[int], template: Template) -> bool:
    """Whether the generated text contains the template's stop string, whatever tokens spell it."""
    return template.stop_string in tokenizer.decode(without_start(tokenizer, ids))


def stop_sequences(tokenizer: Tokenizer, template: Template) -> list[list[int]]:
    """The id sequences that the reference stops at: the stop string at the start of a segment, and within a text."""
    at_start = tokenizer.encode(template.stop_string)
    line = tokenizer.encode("\n")
    within = tokenizer.encode("\n" + template.stop_string)[len(line) :]
    return [at_start] if within == at_start else [at_start, within]


def _marker(template: Template) -> str:
    return f"{template.roles[1]}:"


class StreamDecoder:
    """Feed it generated ids one by one; it yields the answer's text as soon as that is certain.

    Held back until the next ids decide: the end of the text that may begin the stop string or "Assistant:", whitespace
    that may be the last, bytes that are no whole character yet, and everything from a special token on. ``is_stopped``
    turns true when the stop string is complete. After ``finish`` the pieces make up ``answer``, which equals
    ``postprocess`` of all ids, unless ``has_restarted``: the model wrote "Assistant:" in the middle of its answer,
    which by the reference's rule voids the text in front of it, some of which was already shown.
    """

    def __init__(self, tokenizer: Tokenizer, template: Template) -> None:
        self._tokenizer, self._template = tokenizer, template
        self._marker = _marker(template)
        self._ids: list[int] = []
        self._shown = ""
        self.is_stopped = False
        self.has_restarted = False

    @property
    def answer(self) -> str:
        """The answer in the ids so far."""
        return postprocess(self._tokenizer, self._ids, self._template)

    def push(self, token: int) -> str:
        """Take the next id; returns the text that became certain, often "". Ids after the stop string are not taken."""
        if self.is_stopped:
            return ""
        self._ids.append(token)
        if has_stop(self._tokenizer, self._ids, self._template):
            self.is_stopped = True
            return self.finish()
        return self._show(self._certain_text())

    def finish(self) -> str:
        """The text still held back: call it when the last id was pushed. After a stop string there is none."""
        return self._show(self.answer)

    def _certain_text(self) -> str:
        """The part of the answer that no further id can change, save by a new "Assistant:"."""
        ids = without_start(self._tokenizer, self._ids)
        held = self._tokenizer.special_ids
        first_special = next((i for i, token in enumerate(ids) if token in held), len(ids))
        text = self._tokenizer.decode(ids[:first_special]).rstrip(_UNDECODABLE)
        for mark in (self._template.stop_string, self._marker):
            text = text[: len(text) - _overlap(text, mark)]
        return text.split(self._marker)[-1].strip()

    def _show(self, text: str) -> str:
        if not text.startswith(self._shown):
            self.has_restarted, self._shown = True, ""
        piece = text[len(self._shown) :]
        self._shown = text
        return piece


def _overlap(text: str, mark: str) -> int:
    """Length of the longest proper beginning of ``mark`` that ends ``text``."""
    return next((n for n in range(min(len(mark) - 1, len(text)), 0, -1) if text.endswith(mark[:n])), 0)
