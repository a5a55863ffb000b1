"""Parity with golden's text.json: every prompt, id, label and answer of the reference."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.conformance_text import rows


@pytest.fixture(scope="module")
def golden(repository: Path) -> Path:
    return repository / "tests/golden/dev"


def test_cases_without_a_tokenizer(golden: Path) -> None:
    results = [row for row in rows(golden, None) if row.case != "text.tokenizer"]
    assert {row.case.split(".")[1] for row in results} == {
        "templates",
        "get_prompt",
        "blip_caption",
        "answer_generate_kwargs",
    }
    assert [row for row in results if not row.passed] == []


def test_all_ids_and_labels(golden: Path, llama_tokenizer: Path) -> None:
    results = list(rows(golden, llama_tokenizer))
    sections = {row.case.split(".")[1] for row in results}
    assert {"chat", "train", "prompt_wrap", "caption_targets", "tokenize", "answer_postprocess", "stopping"} <= sections
    assert [row for row in results if not row.passed] == []
