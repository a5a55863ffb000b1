"""Select the frames of a video that the model reads.

In: the number of frames of a video and the presentation time of each. Out: sorted frame indices.
Source: the reference's ``load_video`` (rules ``uniform`` and ``headtail``); segments, rates and times are ours.
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

# Times given by users are rounded: with half a millisecond, 0.033 s selects the frame that starts at 0.0333 s.
TIME_TOLERANCE_SECONDS = 5e-4


@dataclass(frozen=True)
class FrameSampling:
    """Which frames are sampled. ``times`` has priority over ``fps``, and ``fps`` over ``num_frames``.

    Raises ValueError for invalid values.
    """

    num_frames: int = 8
    fps: float | None = None
    """Sampling rate, in frames per second."""
    times: tuple[float, ...] | None = None
    """Times in seconds from the first frame."""
    start: float | None = None
    """Start of the segment, in seconds from the first frame (included)."""
    end: float | None = None
    """End of the segment, in seconds from the first frame (excluded)."""
    rule: SamplingRule = "uniform"
    seed: int | None = None
    """Random seed of the rule ``headtail``."""

    def __post_init__(self) -> None:
        if self.num_frames < 1:
            raise ValueError(f"num_frames is {self.num_frames}. Use 1 or more.")
        if self.fps is not None and self.times is not None:
            raise ValueError("Both fps and times are set. Use one of them.")
        if self.fps is not None and not (self.fps > 0 and math.isfinite(self.fps)):
            raise ValueError(f"fps is {self.fps}. Use a positive number of frames per second.")
        if self.times is not None and not self.times:
            raise ValueError("times is empty. Give at least one time in seconds.")
        for name, values in (("times", self.times or ()), ("start", (self.start,)), ("end", (self.end,))):
            for value in values:
                if value is not None and not (value >= 0 and math.isfinite(value)):
                    raise ValueError(f"{name} has {value}. Use seconds from the start of the video, 0 or more.")
        if self.end is not None and self.end <= (self.start or 0.0):
            raise ValueError(f"end ({self.end}) is not after start ({self.start or 0.0}). Use an end after the start.")
        for time in self.times or ():
            if not (self.start or 0.0) <= time <= (math.inf if self.end is None else self.end):
                raise ValueError(f"times has {time:g}, which is outside start and end. Use times between them.")
        if self.rule not in ("uniform", "headtail"):
            raise ValueError(f"rule is {self.rule!r}. Choose uniform or headtail.")


def frame_indices(
    total_frames: int, num_frames: int, rule: SamplingRule = "uniform", seed: int | None = None
) -> list[int]:
    """Return the reference's choice of ``num_frames`` out of ``total_frames``, sorted.

    ``uniform`` takes the left edge of each of n equal bins. (Because of rounding, the reference's ``np.arange`` returns
    one edge too many for some n, such as 7 of 17, often past the last frame; it is dropped.) ``headtail`` draws n // 2
    at random from each half, so an odd n gives n - 1 frames and a single frame gives none. At most ``total_frames``.
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
    """Raise ValueError if more frames are requested than the model has positions for."""
    asked = len(set(sampling.times)) if sampling.times is not None else sampling.num_frames
    if sampling.fps is None and asked > max_frames:
        raise ValueError(
            f"{asked} frames are requested, but the limit is {max_frames} (max_frame_pos). Request fewer, or load the "
            "model with interpolate_positions (--interpolate-positions)."
        )


def choose_indices(
    seconds: Sequence[float] | np.ndarray, duration: float, sampling: FrameSampling, max_frames: int
) -> list[int]:
    """Apply ``sampling`` to a video whose frame k is shown from ``seconds[k]`` on (ascending, the first at 0.0).

    Returns sorted, distinct indices. Raises MediaError if the video has no frame at the requested times, or if ``fps``
    requires more than ``max_frames`` frames; ValueError if more frames are requested than ``max_frames``.
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
        low = max(0, int(np.searchsorted(times, start + TIME_TOLERANCE_SECONDS)) - 1)  # the frame that is shown then
        high = low + 1
    if low >= high:
        raise MediaError(f"start is {start:g} s, but the video lasts {duration:.2f} s. Choose a start before its end.")
    if sampling.fps is not None:
        return _frames_at_rate(times, (start, end), sampling.fps, max_frames)
    indices = [low + index for index in frame_indices(high - low, sampling.num_frames, sampling.rule, sampling.seed)]
    if not indices:
        raise MediaError(f"The rule headtail selects no frame out of {high - low}. Use the rule uniform.")
    return indices


def _frames_at(times: np.ndarray, asked: Sequence[float], duration: float) -> list[int]:
    beyond = [time for time in asked if time > duration + TIME_TOLERANCE_SECONDS]
    if beyond:
        raise MediaError(f"times has {beyond[0]:g} s, but the video lasts {duration:.2f} s. Use times before its end.")
    shown = np.searchsorted(times, np.asarray(asked) + TIME_TOLERANCE_SECONDS, side="right") - 1
    return sorted({max(0, int(index)) for index in shown})


def _frames_at_rate(times: np.ndarray, window: tuple[float, float], fps: float, max_frames: int) -> list[int]:
    """Return the frames shown at start + k / fps, for every integer k before the end, each frame once."""
    start, end = window
    # A frame is selected if a step is between its time and the next frame's. The cost does not depend on the rate.
    with np.errstate(over="ignore"):  # at a very high rate every frame is selected
        first_steps = np.ceil((np.append(times, end) - TIME_TOLERANCE_SECONDS - start) * fps)
    count = max(1, first_steps[-1])
    first_steps = np.clip(first_steps[:-1], 0, count)
    indices = [int(index) for index in np.flatnonzero(first_steps < np.append(first_steps[1:], count))]
    if len(indices) > max_frames:
        raise MediaError(
            f"fps={fps:g} over {end - start:.1f} s requires {len(indices)} frames, but the limit is {max_frames} "
            f"(max_frame_pos). Use fps={max_frames / (end - start):.3g} or less, a shorter segment (start, end), or "
            "interpolate_positions (--interpolate-positions)."
        )
    return indices
