"""Scenes of the miniature's clips, and their rendering as frames, audio and mp4 files.

A scene is one shape that moves or stays still, or two still shapes one after the other; each shape has its own sound.
Input: a random generator. Output: scenes, frames (uint8 RGB, 84 px), audio (16 kHz) and mp4 files. A clip is determined
by its ``Scene``, whose ``seed`` decides place, size, rotation, tint, noise and details of the sound. Combinations of
colour, shape and motion for which ``is_held_out`` returns True are not used in the training of the branches.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from video_llama.miniature.drawing import box_coverage, extent
from video_llama.miniature.mp4 import write_mp4
from video_llama.miniature.sounds import SAMPLING_RATE, sample_sequence

# T frames, H = W = FRAME_SIZE

COLOURS = ("red", "green", "blue", "yellow")
SHAPES = ("circle", "square", "triangle", "star")
MOTIONS = ("left", "right", "up", "down", "still")

FRAME_SIZE = 84  # px; 6 x 6 patches of PATCH_SIZE
PATCH_SIZE = 14
FRAMES_PER_SECOND = 10
DURATIONS = (5.0, 5.5, 6.0)  # seconds; the same for one and two shapes, so that the duration gives no hint
TWO_PART_SHARE = 0.3

RADIUS = (11.0, 18.5)  # px
ROTATION = 0.3  # radians, in both directions
TRAVEL = (0.55, 1.0)  # distance that a shape moves, relative to the free space
MARGIN = 1.0  # px between a shape and the border of the frame
TINT = 25.0  # largest random change of a colour channel
BACKGROUND, BACKGROUND_TINT = (0.0, 90.0), 12.0
SCENE_NOISE = (0.3, 2.0)  # standard deviation in grey levels; one pattern per clip, to keep files small
FRAME_NOISE = (0.3, 6.0)  # for single frames, which are not written to files
PALETTE = {"red": (220.0, 45.0, 45.0), "green": (45.0, 190.0, 60.0), "blue": (55.0, 85.0, 225.0)}
PALETTE["yellow"] = (225.0, 205.0, 45.0)

NUM_PLACE_BINS = 5
PLACE_EDGES = (24.0, 36.0, 48.0, 60.0)  # px; centres of shapes are between 12 and 72
SIZE_EDGES = (13.5, 16.0)  # px; radii of small, middle and large shapes
PATCH_COVERED = 0.25  # smallest covered fraction of a patch that counts as covered

Split = Literal["train", "test", "any"]
SoundRelation = Literal["matched", "mismatched", "silent", "single"]


@dataclass(frozen=True)
class ScenePart:
    """A shape, its colour and its motion."""

    colour: str
    shape: str
    motion: str


@dataclass(frozen=True)
class Scene:
    """The content of one clip."""

    parts: tuple[ScenePart, ...]
    """One part, or two still parts with different shapes, which take half of the duration each."""
    sounds: tuple[str, ...]
    """Shapes that sound, in order and equally long; empty for a clip without an audio track."""
    seed: int
    """Random seed of everything else."""
    duration: float
    """Duration in seconds."""

    @property
    def is_two_part(self) -> bool:
        return len(self.parts) == 2

    @property
    def shapes(self) -> tuple[str, ...]:
        """The visible shapes, in order."""
        return tuple(part.shape for part in self.parts)

    @property
    def is_matched(self) -> bool:
        """Whether the sounds are those of the visible shapes."""
        return self.sounds == self.shapes


@dataclass(frozen=True)
class ObjectState:
    """The visible shape at one time; x, y and radius in pixels, from the top left corner."""

    colour: str
    shape: str
    x: float
    y: float
    radius: float


@dataclass(frozen=True)
class FrameLabels:
    """Class indices of a single frame, and which of its 6 x 6 patches the shape covers."""

    colour: int
    shape: int
    x_bin: int
    y_bin: int
    size_bin: int
    patch_mask: NDArray[np.bool_]


@dataclass(frozen=True)
class _Body:
    """Appearance of one part: RGB levels, size, rotation, and centre at the start and the end of the part."""

    colour: NDArray[np.float32]
    radius: float
    rotation: float
    start: NDArray[np.float64]
    end: NDArray[np.float64]


def is_held_out(parts: Sequence[ScenePart]) -> bool:
    """Return whether a combination is held out from training: one in five, for one and for two parts."""
    colours = [COLOURS.index(part.colour) for part in parts]
    shapes = [SHAPES.index(part.shape) for part in parts]
    if len(parts) == 1:
        return (colours[0] + 2 * shapes[0] + MOTIONS.index(parts[0].motion)) % 5 == 0
    return (colours[0] + 3 * shapes[0] + 2 * colours[1] + shapes[1]) % 5 == 0


def _pick(rng: np.random.Generator, choices: Sequence[str], *, without: Sequence[str] = ()) -> str:
    allowed = [choice for choice in choices if choice not in without]
    return allowed[int(rng.integers(len(allowed)))]


def _sample_parts(rng: np.random.Generator, two_part: bool) -> tuple[ScenePart, ...]:
    if not two_part:
        return (ScenePart(_pick(rng, COLOURS), _pick(rng, SHAPES), _pick(rng, MOTIONS)),)
    first = ScenePart(_pick(rng, COLOURS), _pick(rng, SHAPES), "still")
    return first, ScenePart(_pick(rng, COLOURS), _pick(rng, SHAPES, without=[first.shape]), "still")


def sample_sounds(rng: np.random.Generator, shapes: Sequence[str], sound: SoundRelation) -> tuple[str, ...]:
    """Return the shapes that sound while ``shapes`` are visible.

    "matched": the same shapes. "mismatched": always a different shape than the visible one. "single": one random shape
    for the whole clip. "silent": none.
    """
    if sound == "silent":
        return ()
    if sound == "matched":
        return tuple(shapes)
    if sound == "single":
        return (_pick(rng, SHAPES),)
    first = _pick(rng, SHAPES, without=shapes[:1])
    return (first,) if len(shapes) == 1 else (first, _pick(rng, SHAPES, without=[shapes[1], first]))


def sample_scene(
    rng: np.random.Generator,
    split: Split = "any",
    *,
    two_part: bool | None = None,
    sound: SoundRelation = "matched",
    two_part_share: float = TWO_PART_SHARE,
) -> Scene:
    """Generate a random scene.

    Args:
        rng: random generator; the same state gives the same scene.
        split: "train" excludes held-out combinations, "test" gives only those, "any" gives all.
        two_part: whether the scene has two parts; None: random, with probability ``two_part_share``.
        sound: relation of the sound to the picture, see ``sample_sounds``.
        two_part_share: probability of two parts if ``two_part`` is None.

    Raises:
        ValueError: unknown ``split`` or ``sound``.
    """
    if split not in ("train", "test", "any") or sound not in ("matched", "mismatched", "silent", "single"):
        raise ValueError(
            f"split={split!r}, sound={sound!r}: use train, test or any, and matched, mismatched, silent or single"
        )
    is_two_part = bool(rng.random() < two_part_share) if two_part is None else two_part
    parts = _sample_parts(rng, is_two_part)
    while split != "any" and is_held_out(parts) != (split == "test"):
        parts = _sample_parts(rng, is_two_part)
    sounds = sample_sounds(rng, [part.shape for part in parts], sound)
    duration = DURATIONS[int(rng.integers(len(DURATIONS)))]
    return Scene(parts=parts, sounds=sounds, seed=int(rng.integers(2**31)), duration=duration)


@cache
def _noise_tile() -> NDArray[np.float32]:
    """Return standard normal noise [2H, 2H, 3]. Frames use random crops of it, which is faster."""
    return np.random.default_rng(0).standard_normal((2 * FRAME_SIZE, 2 * FRAME_SIZE, 3), dtype=np.float32)


def _background(rng: np.random.Generator, noise: tuple[float, float]) -> NDArray[np.uint8]:
    grey = rng.uniform(*BACKGROUND) + rng.uniform(-BACKGROUND_TINT, BACKGROUND_TINT, size=3)
    top, left = rng.integers(FRAME_SIZE, size=2)
    piece = _noise_tile()[top : top + FRAME_SIZE, left : left + FRAME_SIZE]
    picture = piece * np.float32(rng.uniform(*noise)) + grey.astype(np.float32)
    rounded: NDArray[np.uint8] = np.clip(picture + 0.5, 0, 255).astype(np.uint8)
    return rounded


def _sample_body(rng: np.random.Generator, part: ScenePart) -> _Body:
    colour = np.array(PALETTE[part.colour]) + rng.uniform(-TINT, TINT, size=3)
    radius, rotation = float(rng.uniform(*RADIUS)), float(rng.uniform(-ROTATION, ROTATION))
    low = extent(part.shape, radius, rotation) + MARGIN
    high = FRAME_SIZE - low
    start = rng.uniform(low, high, size=2)
    end = start.copy()
    travel = rng.uniform(*TRAVEL) * (high - low)
    if part.motion != "still":
        axis = 0 if part.motion in ("left", "right") else 1
        near = rng.uniform(low, high - travel)
        start[axis], end[axis] = near, near + travel
        if part.motion in ("left", "up"):
            start[axis], end[axis] = end[axis], start[axis]
    return _Body(np.clip(colour, 0, 255).astype(np.float32), radius, rotation, start, end)


@lru_cache(maxsize=8)
def _appearance(scene: Scene) -> tuple[NDArray[np.uint8], tuple[_Body, ...]]:
    rng = np.random.default_rng([scene.seed, 0])
    return _background(rng, SCENE_NOISE), tuple(_sample_body(rng, part) for part in scene.parts)


def _moments(scene: Scene, seconds: Sequence[float]) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return for each time [T] the index of the visible part, and the fraction of it that has passed, in [0, 1]."""
    progress = np.clip(np.asarray(seconds, dtype=np.float64) / scene.duration, 0.0, 1.0) * len(scene.parts)
    parts = np.minimum(progress.astype(np.int64), len(scene.parts) - 1)
    return parts, progress - parts


def object_state(scene: Scene, second: float) -> ObjectState:
    """Return the visible shape and its position at a time in seconds."""
    parts, shares = _moments(scene, [second])
    part, body = scene.parts[parts[0]], _appearance(scene)[1][parts[0]]
    x, y = body.start + (body.end - body.start) * shares[0]
    return ObjectState(part.colour, part.shape, float(x), float(y), body.radius)


def _paint(frame: NDArray[np.uint8], box: tuple[slice, slice], coverage: NDArray[np.float32], colour: Any) -> None:
    under = frame[box].astype(np.float32)
    # The shape keeps 15 % of the noise of the background.
    over = colour + np.float32(0.15) * (under - under.mean(axis=(0, 1)))
    frame[box] = np.clip(under + coverage[:, :, None] * (over - under) + np.float32(0.5), 0, 255)


def render_frames(scene: Scene, seconds: Sequence[float]) -> NDArray[np.uint8]:
    """Render the frames of a scene at the given times in seconds: uint8 [T, 84, 84, 3], RGB."""
    background, bodies = _appearance(scene)
    frames = np.repeat(background[None], len(seconds), axis=0)
    parts, shares = _moments(scene, seconds)
    for index, body in enumerate(bodies):
        chosen = np.flatnonzero(parts == index)
        centres = body.start + (body.end - body.start) * shares[chosen, None]
        shape = scene.parts[index].shape
        coverage, corners = box_coverage(shape, centres, body.radius, body.rotation, FRAME_SIZE)
        edge = coverage.shape[1]
        for frame, share, (left, top) in zip(chosen, coverage, corners, strict=True):
            _paint(frames[frame], (slice(top, top + edge), slice(left, left + edge)), share, body.colour)
    return frames


def sampled_seconds(scene: Scene, num_frames: int = 8) -> list[float]:
    """Return the times, in seconds, of the frames that uniform sampling takes from the scene's mp4 file."""
    total = round(scene.duration * FRAMES_PER_SECOND)
    count = min(num_frames, total)
    return [int(index * total / count) / FRAMES_PER_SECOND for index in range(count)]


def sample_frame(rng: np.random.Generator) -> tuple[NDArray[np.uint8], FrameLabels]:
    """Generate a picture of one shape for training a vision encoder: uint8 [84, 84, 3] and its labels.

    All pairs of colour and shape occur: only combinations with motions and with second shapes are held out.
    """
    part = ScenePart(_pick(rng, COLOURS), _pick(rng, SHAPES), "still")
    frame, body = _background(rng, FRAME_NOISE), _sample_body(rng, part)
    coverage, corners = box_coverage(part.shape, body.start[None], body.radius, body.rotation, FRAME_SIZE)
    (left, top), edge = corners[0], coverage.shape[1]
    box = (slice(top, top + edge), slice(left, left + edge))
    _paint(frame, box, coverage[0], body.colour)
    covered = np.zeros((FRAME_SIZE, FRAME_SIZE), dtype=np.float32)
    covered[box] = coverage[0]
    patches = FRAME_SIZE // PATCH_SIZE
    shares = covered.reshape(patches, PATCH_SIZE, patches, PATCH_SIZE).mean(axis=(1, 3))
    labels = FrameLabels(
        colour=COLOURS.index(part.colour),
        shape=SHAPES.index(part.shape),
        x_bin=int(np.searchsorted(PLACE_EDGES, body.start[0], side="right")),
        y_bin=int(np.searchsorted(PLACE_EDGES, body.start[1], side="right")),
        size_bin=int(np.searchsorted(SIZE_EDGES, body.radius, side="right")),
        patch_mask=shares >= PATCH_COVERED,
    )
    return frame, labels


def render_audio(scene: Scene) -> NDArray[np.float32]:
    """Return the audio of a scene, float32 [duration * 16000] in [-1, 1]; background noise if the scene is silent."""
    return sample_sequence(np.random.default_rng([scene.seed, 1]), scene.sounds, scene.duration)


def write_clip(scene: Scene, path: str | Path) -> None:
    """Write a scene as mp4: H.264 at 10 frames per second and AAC mono, or no audio track if the scene is silent.

    Raises:
        OSError: the file cannot be written.
    """
    total = round(scene.duration * FRAMES_PER_SECOND)
    frames = render_frames(scene, [index / FRAMES_PER_SECOND for index in range(total)])
    samples = render_audio(scene) if scene.sounds else None
    write_mp4(Path(path), frames, frames_per_second=FRAMES_PER_SECOND, samples=samples, sampling_rate=SAMPLING_RATE)
