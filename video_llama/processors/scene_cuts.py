"""Find the scene cuts of a video: frames that differ strongly from the one before.

In: a video file. Out: the times of the cuts in seconds, and the windows between them. Every frame is decoded, scaled to
64 x 36 pixels and compared with the one before: the mean absolute difference of the RGB values, in percent of 255. A
cut is a difference of at least ``threshold`` that is also at least RATIO times the median of the differences around it,
so that motion and camera shake are no cuts. Slow transitions (dissolves, fades) are not found.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from video_llama.processors.media_file import MediaFile
from video_llama.processors.video_decode import OrderedRead, Scaler, frames_in_order
from video_llama.processors.video_index import FrameIndex, video_stream
from video_llama.processors.windows import Window, WindowPlan

SIZE = (36, 64)
"""Height and width of the compared pictures."""
RATIO, NEIGHBOURS = 3.0, 12
"""A cut differs this much more than the median of this number of differences before and after it."""


@dataclass(frozen=True)
class ScenePlan:
    """Windows are the scenes between cuts. Raises ValueError for invalid values."""

    threshold: float = 8.0
    """Smallest difference of the frames at a cut: mean absolute difference of RGB, in percent of the full scale."""
    min_seconds: float = 1.0
    """A cut that follows the start of a scene by less is ignored."""
    max_seconds: float | None = None
    """Longer scenes are divided into windows of this length."""

    def __post_init__(self) -> None:
        if not 0 < self.threshold <= 100:
            raise ValueError(
                f"threshold is {self.threshold:g}. Give a difference in percent: more than 0, at most 100."
            )
        if not (self.min_seconds >= 0 and math.isfinite(self.min_seconds)):
            raise ValueError(f"min_seconds is {self.min_seconds:g}. Give 0 or more seconds.")
        if self.max_seconds is not None:
            WindowPlan(self.max_seconds)

    def as_dict(self) -> dict[str, Any]:
        """Return the plan for records."""
        return {"scenes": asdict(self)}

    def windows(self, cuts: Sequence[float], start: float, end: float) -> list[Window]:
        """Return the windows from ``start`` to ``end``, which begin at the cuts between them."""
        starts = [start]
        for cut in cuts:
            if cut - starts[-1] >= max(self.min_seconds, 1e-6) and end - cut >= max(self.min_seconds, 1e-6):
                starts.append(cut)
        scenes = zip(starts, [*starts[1:], end], strict=True)
        if self.max_seconds is None:
            return [Window(round(first, 6), round(last, 6)) for first, last in scenes]
        plan = WindowPlan(self.max_seconds)
        return [window for first, last in scenes for window in plan.windows(first, last)]


def scene_cuts(media: MediaFile, index: FrameIndex, plan: ScenePlan) -> list[float]:
    """Return the times of the frames at which scenes start, in seconds from the first frame; 0 is not among them."""
    differences, seconds = frame_differences(media, index)
    return [float(seconds[i]) for i in cut_positions(differences, plan.threshold)]


def frame_differences(media: MediaFile, index: FrameIndex) -> tuple[np.ndarray, np.ndarray]:
    """Return the difference of each frame to the one before, in percent, and the times of these frames in seconds."""
    scaler, previous = Scaler(SIZE), None
    differences, seconds = [], []
    time_base = float(index.time_base)
    with media.container() as container:
        stream = video_stream(container, media)
        for number, frame in enumerate(frames_in_order(container, stream, OrderedRead())):
            picture = scaler(frame).astype(np.int16)
            if previous is not None:
                differences.append(float(np.abs(picture - previous).mean()) / 2.55)
                is_timed = index.is_timed and frame.pts is not None
                pts = frame.pts if is_timed else index.pts[min(number, len(index.pts) - 1)]
                seconds.append((pts - index.pts[0]) * time_base)
            previous = picture
    return np.asarray(differences), np.asarray(seconds, dtype=np.float64)


def cut_positions(differences: np.ndarray, threshold: float) -> list[int]:
    """Return the positions of the differences that are cuts."""
    found = []
    for position in np.flatnonzero(differences >= threshold):
        before = differences[max(0, position - NEIGHBOURS) : position]
        around = np.concatenate([before, differences[position + 1 : position + 1 + NEIGHBOURS]])
        if not len(around) or differences[position] >= RATIO * np.median(around):
            found.append(int(position))
    return found
