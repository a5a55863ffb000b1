"""Text of users that would become control tokens or a turn of the conversation if it were put into a prompt as it is.

The reference puts it there as it is: a typed ``</s>`` becomes the end token, and ``###Assistant:`` begins an answer
that the model did not give. ``TextGuard`` inserts a space instead. All other text is unchanged.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from video_llama.conversation.templates import Style, Template

LLAMA_2_MARKS = ("<<SYS>>", "<</SYS>>", "[INST]", "[/INST]")


@dataclass(frozen=True)
class TextGuard:
    """Neutralizes the sequences that match ``pattern``."""

    pattern: re.Pattern[str]

    @staticmethod
    def of(template: Template, special_texts: Iterable[str]) -> TextGuard:
        """Return the guard for a template and the special tokens of a tokenizer, such as ``<s>``."""
        special_texts = list(special_texts)
        marks = {*special_texts, *(LLAMA_2_MARKS if template.style is Style.LLAMA_2 else ())}
        marks |= {*(template.turns.marks(special_texts) if template.turns is not None else ())}
        patterns = [re.escape(mark) for mark in sorted(marks, key=len, reverse=True)]
        if template.style is not Style.LLAMA_2 and template.sep.strip():
            roles = "|".join(map(re.escape, template.roles))
            patterns.append(rf"{re.escape(template.sep)}\s*(?i:{roles})\s*:")
        return TextGuard(re.compile("|".join(patterns)))

    def clean(self, text: str) -> str:
        """Return the text with a space after the first character of each match: ``< /s>``, ``# ##Human:``."""
        return self.pattern.sub(lambda match: f"{match.group()[0]} {match.group()[1:]}", text)

    def found(self, text: str) -> list[str]:
        """Return the matches in a text, in order."""
        return [match.group() for match in self.pattern.finditer(text)]
