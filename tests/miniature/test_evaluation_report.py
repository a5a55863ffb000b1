"""An evaluation as rows, as a table and as a plot."""

import json
from pathlib import Path

import numpy as np
import pytest

from video_llama.miniature.evaluation import TARGETS, Evaluation, Mark, plan, tally
from video_llama.miniature.evaluation_report import answer_rows, plot_figures, table_of
from video_llama.miniature.world import sample_scene


@pytest.fixture(scope="module")
def evaluation() -> Evaluation:
    """Every third answer is right."""
    rng = np.random.default_rng(0)
    scenes = [sample_scene(rng, "test", sound=sort) for _ in range(8) for sort in ("matched", "mismatched", "silent")]
    probes = plan(scenes, seed=1)
    marks = [Mark(probe, probe.qa.answer, index % 3 == 0) for index, probe in enumerate(probes)]
    counts = tally(probes, (mark.is_right for mark in marks))
    return Evaluation(counts, marks, "miniature", seed=1, num_clips=len(scenes), seconds=1.0)


def test_figures_become_a_table_rows_and_a_plot(evaluation: Evaluation, tmp_path: Path) -> None:
    data = json.loads(json.dumps(evaluation.as_dict()))
    assert set(data["accuracy"]) >= {*TARGETS, "see_mismatched"}
    assert set(data["counts"]) == set(data["accuracy"]) | set(data["ablations"])
    assert all(0 <= row["low"] <= row["high"] <= 1 for row in data["counts"].values())
    assert table_of(evaluation).row_count == len(data["counts"])
    rows = list(answer_rows(evaluation))
    assert len(rows) == len(evaluation.marks)
    assert json.dumps(rows)
    pytest.importorskip("matplotlib")
    plot_figures(evaluation, tmp_path / "figures.png")
    assert (tmp_path / "figures.png").stat().st_size > 10_000
