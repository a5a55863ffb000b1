"""The turn format of a decoder that has a chat template of its own, derived from the rendered template.

In: a function that renders messages with the decoder's chat template. Out: the constant texts around system text,
questions and answers, so that ``conversation_video.render`` writes the same prompts for serving, training and labels.
A template that is more than constant texts (it changes or reorders messages) is an error.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from video_llama.errors import CheckpointError, PromptError

RenderMessages = Callable[[list[dict[str, str]], bool], str]
"""Renders messages ({"role", "content"}) to text; the flag adds the beginning of the next answer."""

_SYSTEM, _FIRST, _ANSWER, _SECOND = "Sys1tem", "Ques1tion", "Ans1wer", "Ques2tion"
_MARK_WORD = re.compile(r"[^\w\s].*\w.*[^\w\s]")
_EXAMPLES = (
    ["How many birds are there?", "Three. Two are red,\nand one is blue.", "Où est l'oiseau bleu?"],
    ["a", "b", "c", "d", "e"],
)


@dataclass(frozen=True)
class TurnFormat:
    """The texts around the messages of a conversation.

    The prompt is: the head, question, ``question_end``, ``answer_prefix``, answer, ``answer_end``, and for each further
    question ``next_question``, question and so on. The head is ``system_prefix``, system text, ``system_suffix``, or
    ``begin`` without system text.
    """

    begin: str
    system_prefix: str | None
    """None: the template has no system message."""
    system_suffix: str
    question_end: str
    """Ends a question and begins the answer to be generated."""
    answer_prefix: str
    """Whitespace before an earlier answer."""
    answer_end: str
    next_question: str
    always_has_system: bool
    """Whether the system message is written even if its text is empty."""

    @property
    def stop_string(self) -> str:
        """The text that ends an answer."""
        return self.answer_end.strip()

    def head(self, system: str) -> str:
        """Return the text before the first question. Raises PromptError if there is no place for ``system``."""
        if self.system_prefix is None:
            if system:
                raise PromptError(
                    "The decoder's chat template has no system message. Put the instructions into the question."
                )
            return self.begin
        if not system and not self.always_has_system:
            return self.begin
        return self.system_prefix + system + self.system_suffix

    def marks(self, special_texts: Iterable[str]) -> list[str]:
        """Return the marks of turns that are not special tokens, such as ``<|user|>`` and ``[INST]``.

        A mark is a line of the texts with punctuation, or a word between punctuation.
        """
        texts = [self.begin, self.system_prefix or "", self.question_end, self.answer_end, self.next_question]
        for special in special_texts:
            texts = [piece for text in texts for piece in text.split(special)]
        lines = {line.strip() for text in texts for line in text.splitlines()}
        marks = {line for line in lines if line and not line.replace(" ", "").isalnum()}
        return sorted(marks | {word for line in lines for word in line.split() if _MARK_WORD.fullmatch(word)})

    def as_dict(self) -> dict[str, Any]:
        """Return the fields, for ``config.json``."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> TurnFormat:
        """Return the format with these fields. Raises CheckpointError for missing, unknown or mistyped ones."""
        wrong = sorted(data.keys() ^ {each.name for each in fields(cls)})
        if wrong:
            raise CheckpointError(f"turn_format: {wrong[0]} is missing or unknown. Write the folder again.")
        for name, value in data.items():
            is_flag = name == "always_has_system"
            if not isinstance(value, bool if is_flag else str) and not (name == "system_prefix" and value is None):
                raise CheckpointError(f"turn_format: {name} is {repr(value)[:80]}. Write the folder again.")
        turns = cls(**data)
        if not turns.stop_string:
            raise CheckpointError("turn_format: answer_end is empty. Write the folder again.")
        return turns


def derive_turn_format(render: RenderMessages, special_texts: Iterable[str]) -> tuple[TurnFormat, str]:
    """Return the turn format of a chat template and its default system text.

    ``special_texts`` are the tokenizer's special tokens: the first one after an answer ends it. Raises CheckpointError,
    naming what is missing, for a template that does not decompose into texts around the messages.
    """
    begin, question_end = _split(render(_messages(_FIRST), True), _FIRST)
    history = _messages(_FIRST, _ANSWER, _SECOND)
    start, before_answer, between, last = _split(render(history, True), _FIRST, _ANSWER, _SECOND)
    end = _split(render(_messages(_FIRST, _ANSWER), False), _FIRST, _ANSWER)[-1]
    if start != begin or last != question_end:
        raise _refused("the text around a question depends on the other messages")
    answer_prefix = before_answer.removeprefix(question_end)
    if not before_answer.startswith(question_end) or answer_prefix.strip():
        raise _refused(
            f"the beginning of an answer to be generated ({question_end!r}) is not that of an earlier answer "
            f"({before_answer!r})"
        )
    answer_end = _answer_end(between, end, special_texts)
    next_question = between.removeprefix(answer_end)
    system_prefix, system_suffix = _system(render, question_end)
    default, always = _default_system(begin, system_prefix, system_suffix)
    turns = TurnFormat(
        begin, system_prefix, system_suffix, question_end, answer_prefix, answer_end, next_question, always
    )
    _verify(turns, default, render)
    return turns, default


def _messages(*texts: str, system: str | None = None) -> list[dict[str, str]]:
    roles = ("user", "assistant")
    turns = [{"role": roles[index % 2], "content": text} for index, text in enumerate(texts)]
    return turns if system is None else [{"role": "system", "content": system}, *turns]


def _split(text: str, *contents: str) -> list[str]:
    """Return the texts before, between and after the contents."""
    parts = []
    for content in contents:
        before, found, text = text.partition(content)
        if not found or content in text:
            raise _refused(f"a message must occur in the prompt once and unchanged ({content!r} does not)")
        parts.append(before)
    return [*parts, text]


def _answer_end(between: str, end: str, special_texts: Iterable[str]) -> str:
    """Return the text from the end of an answer to its end symbol: a special token, else all text after it."""
    ends = [between.index(text) + len(text) for text in special_texts if text and text in between]
    inside = [stop for stop in ends if end.startswith(between[:stop])]
    answer_end = between[: min(inside)] if inside else end.rstrip()
    if not answer_end.strip() or not between.startswith(answer_end):
        raise _refused(f"an answer has no end symbol (after it: {end!r}, before the next question: {between!r})")
    return answer_end


def _system(render: RenderMessages, question_end: str) -> tuple[str | None, str]:
    """Return the texts around the system text; (None, "") if the template refuses or ignores a system message."""
    try:
        text = render(_messages(_FIRST, system=_SYSTEM), True)
    except Exception:  # a template reports what it does not support with exceptions of any kind
        return None, ""
    if _SYSTEM not in text:
        return None, ""
    prefix, suffix, rest = _split(text, _SYSTEM, _FIRST)
    if rest != question_end:
        raise _refused("the text after a question depends on the system message")
    return prefix, suffix


def _default_system(begin: str, prefix: str | None, suffix: str) -> tuple[str, bool]:
    """Return the system text that the template writes on its own, and whether it writes one."""
    fits = prefix is not None and begin.startswith(prefix) and begin.endswith(suffix)
    if prefix is None or not fits or len(begin) < len(prefix) + len(suffix) or not prefix + suffix:
        return "", False
    return begin[len(prefix) : len(begin) - len(suffix)], True


def _verify(turns: TurnFormat, default: str, render: RenderMessages) -> None:
    for texts in _EXAMPLES:
        for system in (None, "Answer in one word."):
            if system is not None and turns.system_prefix is None:
                continue
            ours = turns.head(default if system is None else system)
            for index, text in enumerate(texts):
                if index % 2:
                    ours += turns.answer_prefix + text + turns.answer_end
                else:
                    ours += (turns.next_question if index else "") + text + turns.question_end
            theirs = render(_messages(*texts, system=system), True)
            if ours != theirs:
                raise _refused(f"the derived format writes {ours!r}, but the template {theirs!r}")


def _refused(reason: str) -> CheckpointError:
    return CheckpointError(
        f"The decoder's chat template cannot be used: {reason}. Supported are templates that write constant texts "
        "around the messages. Give the decoder's folder a simpler chat_template.jinja."
    )
