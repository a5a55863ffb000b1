"""Drawing of shapes: the covered area of every shape."""

import numpy as np
import pytest

from video_llama.miniature.drawing import box_coverage
from video_llama.miniature.world import FRAME_SIZE, SHAPES


def test_shapes_cover_similar_areas() -> None:
    areas = {}
    for shape in SHAPES:
        coverage, _ = box_coverage(shape, np.array([[42.0, 42.0]]), 15.0, 0.1, FRAME_SIZE)
        areas[shape] = float(coverage.sum())
    assert areas["circle"] == pytest.approx(np.pi * 15**2, rel=0.01)
    assert areas["square"] == pytest.approx((2 * 0.86 * 15) ** 2, rel=0.01)
    assert areas["triangle"] == pytest.approx(3 * np.sqrt(3) / 4 * (1.15 * 15) ** 2, rel=0.01)
    assert areas["star"] == pytest.approx(5 * (1.15 * 15) ** 2 * 0.45 * np.sin(np.pi / 5), rel=0.03)
