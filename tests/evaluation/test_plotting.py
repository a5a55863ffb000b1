"""The plot of the figures."""

import pytest
from PIL import Image

from tests.evaluation.conftest import result
from video_llama.evaluation.metrics import summary_of
from video_llama.evaluation.plotting import plot_metrics


def test_plot_of_shares_and_scores(tmp_path):
    pytest.importorskip("matplotlib")
    results = [
        result("1", answer="red", answers=["red"], category="colour"),
        result("2", answer="left", answers=["right"], category="motion"),
        result("3", answer="a red circle moves", captions=["a red circle moves left"]),
    ]
    plot_metrics(summary_of(results), tmp_path / "both.png")
    plot_metrics(summary_of(results[:2]), tmp_path / "shares.png")
    both, shares = (Image.open(tmp_path / name) for name in ("both.png", "shares.png"))
    assert both.height > shares.height > 100
    assert len(both.convert("RGB").getcolors(10_000)) > 5


def test_nothing_to_plot(tmp_path):
    pytest.importorskip("matplotlib")
    plot_metrics(summary_of([result("1", answer="x")]), tmp_path / "none.png")
    assert not (tmp_path / "none.png").exists()
