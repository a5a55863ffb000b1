"""Captions through the reference's BLIP rules."""

from __future__ import annotations

import json
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from video_llama.processors.text_processor import caption


def test_golden_captions(repository: Path) -> None:
    golden = json.loads((repository / "tests/golden/dev/text.json").read_text(encoding="utf-8"))["blip_caption"]
    assert len(golden) > 5
    for case in golden:
        assert caption(case["text"], prompt=case["prompt"], max_words=case["max_words"]) == case["out"]


@given(st.text(), st.integers(1, 60))
def test_a_caption_is_short_lower_and_without_its_marks(text: str, max_words: int) -> None:
    out = caption(text, max_words=max_words)
    assert not set('.!"()*#:;~') & set(out)
    assert len(out.split(" ")) <= max_words
    assert out == out.lower() or out.lower() != out.lower().lower()
    assert caption(text, prompt="a photo of ", max_words=max_words) == "a photo of " + out
