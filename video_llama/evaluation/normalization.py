"""Compare short answers: normalization, exact match, and the letter of a choice.

The normalization is that of SQuAD (Rajpurkar et al. 2016, section 6: lower case, no punctuation, no articles, single
spaces), with the number words zero to ten as digits, as in VQA's evaluation (Antol et al. 2015). Unicode text is
brought to NFKC first.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

from video_llama.datasets.question_rows import LETTERS

DESCRIPTION = (
    "NFKC, lower case, without punctuation and the articles a, an, the; number words zero to ten as digits; "
    "single spaces"
)
_NUMBER_WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
_NUMBERS = {word: str(number) for number, word in enumerate(_NUMBER_WORDS)}
_ARTICLES = frozenset(("a", "an", "the"))
_MARKED_LETTER = re.compile(r"\(([A-Za-z])\)|(?<!\w)([A-Z])[).:](?!\w)")
"""A letter in brackets, or a capital letter before a bracket, a point or a colon."""
_LETTER_AT_END = re.compile(r"\b(?i:is|option|answer|choice)\s+([A-Z])$")


def normalized(text: str) -> str:
    """Return the text in the form in which answers are compared; see the module."""
    text = unicodedata.normalize("NFKC", text).lower()
    kept = (" " if _is_space_mark(mark) else "" if _is_punctuation(mark) else mark for mark in text)
    words = (_NUMBERS.get(word, word) for word in "".join(kept).split())
    return " ".join(word for word in words if word not in _ARTICLES)


def _is_punctuation(mark: str) -> bool:
    return unicodedata.category(mark)[0] in "PS"


def _is_space_mark(mark: str) -> bool:
    """Marks between words ("left-right", "left/right") become spaces; others ("it's") are removed."""
    return mark == "/" or unicodedata.category(mark) in ("Pd", "Pc")


def is_exact_match(answer: str, accepted: Sequence[str]) -> bool:
    """Return whether the normalized answer equals one of the accepted answers."""
    return normalized(answer) in {normalized(each) for each in accepted}


def contains_answer(answer: str, accepted: Sequence[str]) -> bool:
    """Return whether the normalized answer contains an accepted answer as whole words."""
    words = f" {normalized(answer)} "
    return any(f" {expected} " in words for each in accepted if (expected := normalized(each)))


def chosen_index(answer: str, choices: Sequence[str]) -> int | None:
    """Return the index of the choice that a generated answer names, or None if it names none.

    In this order: the answer is the text of a choice; it has a letter such as ``(B)``, ``B)``, ``B.`` or ``B:``; it is
    a letter, or ends with one ("The answer is B"); it contains the text of exactly one choice.
    """
    text = normalized(answer)
    same = [index for index, choice in enumerate(choices) if text and normalized(choice) == text]
    if len(same) == 1 and not (len(answer.strip()) == 1 and answer.strip() in LETTERS[: len(choices)]):
        return same[0]
    stripped = answer.strip().rstrip(".")
    marked = _MARKED_LETTER.search(answer)
    at_end = _LETTER_AT_END.search(stripped)
    if marked:
        letter = marked[1] or marked[2]
    elif len(stripped) == 1:
        letter = stripped
    else:
        letter = at_end[1] if at_end else ""
    index = LETTERS.find(letter.upper()) if letter else -1
    if 0 <= index < len(choices):
        return index
    named = [index for index, choice in enumerate(choices) if contains_answer(answer, [choice])]
    return named[0] if len(named) == 1 else None
