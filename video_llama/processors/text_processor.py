"""Captions for training. In: a caption as annotated. Out: the cleaned caption.

Source: the reference's BLIP caption processor.
"""

from __future__ import annotations

import re

MAX_WORDS = 50
_TO_SPACE = re.compile(r"[.!\"()*#:;~]")
_RUN_OF_SPACE = re.compile(r"\s{2,}")


def caption(text: str, prompt: str = "", max_words: int = MAX_WORDS) -> str:
    """Return ``prompt`` + the caption in lower case, without the marks .!"()*#:;~ and with at most ``max_words`` words.

    Runs of two or more whitespace characters become one space; a single tab or newline inside the text is kept. Words
    are separated by single spaces.
    """
    words = _RUN_OF_SPACE.sub(" ", _TO_SPACE.sub(" ", text.lower())).rstrip("\n").strip(" ").split(" ")
    return prompt + " ".join(words[:max_words])
