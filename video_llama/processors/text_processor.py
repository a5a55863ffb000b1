"""Captions for training. In: a caption as annotated. Out: the cleaned caption.

Source: the reference's BLIP caption processor.
"""

from __future__ import annotations

import re

MAX_WORDS = 50
_TO_SPACE = re.compile(r"[.!\"()*#:;~]")
_RUN_OF_SPACE = re.compile(r"\s{2,}")


def caption(text: str, prompt: str = "", max_words: int = MAX_WORDS) -> str:
    """Return ``prompt`` + the lower-case caption without its marks, at most ``max_words`` words long.

    Commas, dashes and question marks stay. Only runs of two or more whitespace characters become one space: a lone tab
    or newline inside the text stays, and words are what single spaces separate.
    """
    words = _RUN_OF_SPACE.sub(" ", _TO_SPACE.sub(" ", text.lower())).rstrip("\n").strip(" ").split(" ")
    return prompt + " ".join(words[:max_words])
