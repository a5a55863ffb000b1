"""Which frames of a video are shown to the model.

In: the number of frames of a video and the presentation time of each. Out: sorted frame indices.
Source: the reference's ``load_video`` (rules ``uniform`` and ``headtail``); windows, rates and times are ours.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from video_llama.errors import MediaError

SamplingRule = Literal["uniform", "headtail"]

# A time that a user types is rounded; half a millisecond keeps 0.033 s on the frame that starts at 0.0333 s.
TIME_TOLERANCE_SECONDS = 5e-4


@dataclass(frozen=True)
class FrameSampling:
    """How frames are chosen. One of ``times``, ``fps`` and ``num_frames`` acts: the first that is set, in that order.

    ``start`` and ``end`` (seconds from the first frame) bound the part that is looked at: ``start`` is included,
    ``end`` is not. A bad value is a ``ValueError``.
    """

    num_frames: int = 8
    fps: float | None = None
    times: tuple[float, ...] | None = None
    start: float | None = None
    end: float | None = None
    rule: SamplingRule = "uniform"
    seed: int | None = None

    def __post_init__(self) -> None:
        if self.num_frames < 1:
            raise ValueError(f"num_frames is {self.num_frames}. Ask for 1 frame or more.")
        if self.fps is not None and self.times is not None:
            raise ValueError("Both fps and times are given. Give one of them.")
        if self.fps is not None and not (self.fps > 0 and math.isfinite(self.fps)):
            raise ValueError(f"fps is {self.fps}. Ask for a positive number of frames per second.")
        if self.times is not None and not self.times:
            raise ValueError("times is empty. Give at least one time in seconds.")
        for name, values in (("times", self.times or ()), ("start", (self.start,)), ("end", (self.end,))):
            for value in values:
                if value is not None and not (value >= 0 and math.isfinite(value)):
                    raise ValueError(f"{name} has {value}. Give seconds from the start of the video, 0 or more.")
        if self.end is not None and self.end <= (self.start or 0.0):
            raise ValueError(f"end ({self.end}) is not after start ({self.start or 0.0}). Give an end after the start.")
        for time in self.times or ():
            if not (self.start or 0.0) <= time <= (math.inf if self.end is None else self.end):
                raise ValueError(f"times has {time:g}, which start and end leave out. Give times between them.")
        if self.rule not in ("uniform", "headtail"):
            raise ValueError(f"rule is {self.rule!r}. Choose uniform or headtail.")


def frame_indices(
    total_frames: int, num_frames: int, rule: SamplingRule = "uniform", seed: int | None = None
) -> list[int]:
    """Return the reference's choice of ``num_frames`` out of ``total_frames``, sorted.

    ``uniform`` takes the left edge of each of n equal bins (by rounding, the reference's ``np.arange`` has one edge too
    many for some n, such as 7 of 17, often behind the last frame: it is left out). ``headtail`` draws n // 2 at random
    from each half (so an odd n gives n - 1, and a single frame gives none). Never more than ``total_frames``.
    """
    if total_frames < 1 or num_frames < 1:
        raise ValueError(f"total_frames={total_frames}, num_frames={num_frames}. Both must be 1 or more.")
    count = min(num_frames, total_frames)
    if rule == "uniform":
        edges = np.arange(0, total_frames, total_frames / count)
        return [int(edge) for edge in edges[:count]]
    if rule == "headtail":
        draw, middle = random.Random(seed), total_frames // 2
        head = sorted(draw.sample(range(middle), count // 2))
        return head + sorted(draw.sample(range(middle, total_frames), count // 2))
    raise ValueError(f"rule is {rule!r}. Choose uniform or headtail.")


def check_frame_limit(sampling: FrameSampling, max_frames: int) -> None:
    """Raise ``ValueError`` if more frames are asked for than the model has positions for."""
    asked = len(set(sampling.times)) if sampling.times is not None else sampling.num_frames
    if sampling.fps is None and asked > max_frames:
        raise ValueError(f"{asked} frames are asked for, the limit is {max_frames} (max_frame_pos). Ask for fewer.")


def choose_indices(seconds: Sequence[float], duration: float, sampling: FrameSampling, max_frames: int) -> list[int]:
    """Apply ``sampling`` to a video whose frame k is shown from ``seconds[k]`` on (ascending, the first at 0.0).

    Returns sorted, distinct indices. Raises ``MediaError`` where the video has nothing at the times asked for, or
    where ``fps`` would need more than ``max_frames`` frames; ``ValueError`` where the numbers alone are too large.
    """
    check_frame_limit(sampling, max_frames)
    times = np.asarray(seconds, dtype=np.float64)
    if sampling.times is not None:
        return _frames_at(times, sampling.times, duration)
    start = sampling.start or 0.0
    end = duration if sampling.end is None else min(sampling.end, duration)
    low = int(np.searchsorted(times, start - TIME_TOLERANCE_SECONDS))
    high = len(times) if sampling.end is None else int(np.searchsorted(times, end - TIME_TOLERANCE_SECONDS))
    if low >= high and start < duration:
        low = max(0, int(np.searchsorted(times, start + TIME_TOLERANCE_SECONDS)) - 1)  # the frame then on screen
        high = low + 1
    if low >= high:
        raise MediaError(f"start is {start:g} s and the video lasts {duration:.2f} s. Choose a start before its end.")
    if sampling.fps is not None:
        return _frames_at_rate(times, (start, end), sampling.fps, max_frames)
    indices = [low + index for index in frame_indices(high - low, sampling.num_frames, sampling.rule, sampling.seed)]
    if not indices:
        raise MediaError(f"The rule headtail takes no frame out of {high - low}. Use the rule uniform.")
    return indices


def _frames_at(times: np.ndarray, asked: Sequence[float], duration: float) -> list[int]:
    beyond = [time for time in asked if time > duration + TIME_TOLERANCE_SECONDS]
    if beyond:
        raise MediaError(f"times has {beyond[0]:g} s and the video lasts {duration:.2f} s. Give times before its end.")
    shown = np.searchsorted(times, np.asarray(asked) + TIME_TOLERANCE_SECONDS, side="right") - 1
    return sorted({max(0, int(index)) for index in shown})


def _frames_at_rate(times: np.ndarray, window: tuple[float, float], fps: float, max_frames: int) -> list[int]:
    """Return the frames on screen at start + step / fps, for every whole step before the end, each frame once."""
    start, end = window
    # A frame is chosen if a step falls between its time and the next one's. Counted by frames, any rate costs the same.
    with np.errstate(over="ignore"):  # at an absurd rate every frame has its step
        first_steps = np.ceil((np.append(times, end) - TIME_TOLERANCE_SECONDS - start) * fps)
    count = max(1, first_steps[-1])
    first_steps = np.clip(first_steps[:-1], 0, count)
    indices = [int(index) for index in np.flatnonzero(first_steps < np.append(first_steps[1:], count))]
    if len(indices) > max_frames:
        raise MediaError(
            f"fps={fps:g} over {end - start:.1f} s needs {len(indices)} frames, the limit is {max_frames} "
            f"(max_frame_pos). Ask for fps={max_frames / (end - start):.3g} or less, or for a shorter part with start "
            "and end."
        )
    return indices
