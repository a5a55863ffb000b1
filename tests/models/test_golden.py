"""Parity with the reference on tests/golden/dev: the rows of benchmarks/conformance_model.py, by case."""

from collections.abc import Iterable
from pathlib import Path

import pytest

from benchmarks import conformance_generation, conformance_training
from benchmarks.conformance_build import Golden
from benchmarks.conformance_model import CASES
from benchmarks.conformance_row import Row


@pytest.fixture(scope="module")
def golden(repository: Path) -> Golden:
    return Golden(repository / "tests" / "golden" / "dev")


def assert_passed(rows: Iterable[Row], at_least: int) -> None:
    rows = [row for row in rows if not row.skipped]
    assert [row for row in rows if not row.passed] == []
    assert len(rows) >= at_least


def test_weights(golden: Golden) -> None:
    assert_passed(golden.weight_rows(), 3)


@pytest.mark.parametrize("case", CASES)
def test_forward(golden: Golden, case: str) -> None:
    assert_passed(CASES[case](golden), 1)


@pytest.mark.slow
def test_losses_and_gradients(golden: Golden) -> None:
    assert_passed(conformance_training.rows(golden), 8 * len(golden.cases["loss"]))


def test_generation(golden: Golden) -> None:
    assert_passed(conformance_generation.rows(golden, None), 26)


def test_generated_text(golden: Golden, llama_tokenizer: Path) -> None:
    rows = [row for row in conformance_generation.rows(golden, llama_tokenizer) if "prompt" in row.case]
    assert_passed(rows, 8)
