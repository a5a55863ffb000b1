"""The miniature's world: what can happen in a clip, and how that looks and sounds.

A scene is one shape that moves (or stays), or two shapes one after the other; each shape has a sound of its own.
In: a random generator. Out: scenes, their frames (uint8 RGB, 84 px), their sound (16 kHz) and real mp4 files.
Everything about a clip follows from its ``Scene``, whose ``seed`` decides place, size, turn, tint, noise and sound.
Combinations of colour, shape and motion that ``is_held_out`` names are kept from the training of both branches.
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
DURATIONS = (5.0, 5.5, 6.0)  # seconds; the same for both sorts of scene, or a clip's length would tell the sort
TWO_PART_SHARE = 0.3

RADIUS = (11.0, 18.5)  # px
ROTATION = 0.3  # radians to either side
TRAVEL = (0.55, 1.0)  # share of the free span that a moving shape crosses
MARGIN = 1.0  # px between a shape and the border of the frame
TINT = 25.0  # a colour channel varies by this much
BACKGROUND, BACKGROUND_TINT = (0.0, 90.0), 12.0
SCENE_NOISE = (0.3, 2.0)  # standard deviation in levels; one pattern per clip, or files would be large
FRAME_NOISE = (0.3, 6.0)  # of single frames, which are never written
PALETTE = {"red": (220.0, 45.0, 45.0), "green": (45.0, 190.0, 60.0), "blue": (55.0, 85.0, 225.0)}
PALETTE["yellow"] = (225.0, 205.0, 45.0)

NUM_PLACE_BINS = 5
PLACE_EDGES = (24.0, 36.0, 48.0, 60.0)  # px; centres of shapes lie in 12 to 72
SIZE_EDGES = (13.5, 16.0)  # px of radius: small, middle, large
PATCH_COVERED = 0.25  # a patch counts as covered from this share on

Split = Literal["train", "test", "any"]
SoundSort = Literal["matched", "mismatched", "silent", "single"]


@dataclass(frozen=True)
class ScenePart:
    """One shape and what it does."""

    colour: str
    shape: str
    motion: str


@dataclass(frozen=True)
class Scene:
    """Everything that happens in one clip.

    ``parts``: one, or two that follow each other at half time (both still, of different shapes).
    ``sounds``: the shapes that sound, in order, equally long; empty for a clip without an audio track.
    ``duration``: in seconds.
    """

    parts: tuple[ScenePart, ...]
    sounds: tuple[str, ...]
    seed: int
    duration: float

    @property
    def is_two_part(self) -> bool:
        return len(self.parts) == 2

    @property
    def shapes(self) -> tuple[str, ...]:
        """The shapes that are seen, in order."""
        return tuple(part.shape for part in self.parts)

    @property
    def is_matched(self) -> bool:
        """Whether what sounds is what is seen."""
        return self.sounds == self.shapes


@dataclass(frozen=True)
class ObjectState:
    """The shape that is visible at one moment; x, y and radius in pixels, from the top left corner."""

    colour: str
    shape: str
    x: float
    y: float
    radius: float


@dataclass(frozen=True)
class FrameLabels:
    """What a single frame shows, as class indices, and which of its 6 x 6 patches the shape covers."""

    colour: int
    shape: int
    x_bin: int
    y_bin: int
    size_bin: int
    patch_mask: NDArray[np.bool_]


@dataclass(frozen=True)
class _Body:
    """How one part of a scene looks: RGB levels, size, turn, and its centre at the start and the end of the part."""

    colour: NDArray[np.float32]
    radius: float
    rotation: float
    start: NDArray[np.float64]
    end: NDArray[np.float64]


def is_held_out(parts: Sequence[ScenePart]) -> bool:
    """Whether this combination is kept from training: one in five, of single and of two-part scenes alike."""
    colours = [COLOURS.index(part.colour) for part in parts]
    shapes = [SHAPES.index(part.shape) for part in parts]
    if len(parts) == 1:
        return (colours[0] + 2 * shapes[0] + MOTIONS.index(parts[0].motion)) % 5 == 0
    return (colours[0] + 3 * shapes[0] + 2 * colours[1] + shapes[1]) % 5 == 0


def _pick(rng: np.random.Generator, choices: Sequence[str], *, besides: Sequence[str] = ()) -> str:
    allowed = [choice for choice in choices if choice not in besides]
    return allowed[int(rng.integers(len(allowed)))]


def _sample_parts(rng: np.random.Generator, two_part: bool) -> tuple[ScenePart, ...]:
    if not two_part:
        return (ScenePart(_pick(rng, COLOURS), _pick(rng, SHAPES), _pick(rng, MOTIONS)),)
    first = ScenePart(_pick(rng, COLOURS), _pick(rng, SHAPES), "still")
    return first, ScenePart(_pick(rng, COLOURS), _pick(rng, SHAPES, besides=[first.shape]), "still")


def sample_sounds(rng: np.random.Generator, shapes: Sequence[str], sound: SoundSort) -> tuple[str, ...]:
    """Which shapes sound where ``shapes`` are seen.

    ``matched``: the same ones; ``mismatched``: at every moment another than the visible one; ``single``: one shape's
    sound from beginning to end, whatever is seen; ``silent``: none.
    """
    if sound == "silent":
        return ()
    if sound == "matched":
        return tuple(shapes)
    if sound == "single":
        return (_pick(rng, SHAPES),)
    first = _pick(rng, SHAPES, besides=shapes[:1])
    return (first,) if len(shapes) == 1 else (first, _pick(rng, SHAPES, besides=[shapes[1], first]))


def sample_scene(
    rng: np.random.Generator,
    split: Split = "any",
    *,
    two_part: bool | None = None,
    sound: SoundSort = "matched",
    two_part_share: float = TWO_PART_SHARE,
) -> Scene:
    """Draw a scene.

    Args:
        rng: source of chance; the same state gives the same scene.
        split: "train" never gives a held-out combination, "test" gives only those, "any" gives all.
        two_part: one or two parts; None draws it with ``two_part_share``.
        sound: see ``sample_sounds``.
        two_part_share: probability of two parts where ``two_part`` is None.

    Raises:
        ValueError: an unknown split or sort of sound.
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
    """Standard normal noise [2H, 2H, 3] from which every picture cuts its own piece: far cheaper than drawing it."""
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
    """For each second [T]: which part is visible, and the share of it that has passed, in [0, 1]."""
    progress = np.clip(np.asarray(seconds, dtype=np.float64) / scene.duration, 0.0, 1.0) * len(scene.parts)
    parts = np.minimum(progress.astype(np.int64), len(scene.parts) - 1)
    return parts, progress - parts


def object_state(scene: Scene, second: float) -> ObjectState:
    """The shape that is visible at one second of the clip, and where."""
    parts, shares = _moments(scene, [second])
    part, body = scene.parts[parts[0]], _appearance(scene)[1][parts[0]]
    x, y = body.start + (body.end - body.start) * shares[0]
    return ObjectState(part.colour, part.shape, float(x), float(y), body.radius)


def _paint(frame: NDArray[np.uint8], box: tuple[slice, slice], coverage: NDArray[np.float32], colour: Any) -> None:
    under = frame[box].astype(np.float32)
    # A bit of the ground's grain stays on the shape: it keeps 15 % of the difference to the ground's mean.
    over = colour + np.float32(0.15) * (under - under.mean(axis=(0, 1)))
    frame[box] = np.clip(under + coverage[:, :, None] * (over - under) + np.float32(0.5), 0, 255)


def render_frames(scene: Scene, seconds: Sequence[float]) -> NDArray[np.uint8]:
    """The pictures of a scene at the given seconds: uint8 [T, 84, 84, 3], RGB."""
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
    """The seconds at which the reference's uniform rule looks at the scene's mp4: index / frames per second."""
    total = round(scene.duration * FRAMES_PER_SECOND)
    count = min(num_frames, total)
    return [int(index * total / count) / FRAMES_PER_SECOND for index in range(count)]


def sample_frame(rng: np.random.Generator) -> tuple[NDArray[np.uint8], FrameLabels]:
    """One picture of one shape for training a vision encoder: uint8 [84, 84, 3] and what it shows.

    All colour x shape pairs occur: what is held out are combinations with motions and orders, not pairs.
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
    """The scene's sound, float32 [duration * 16000] in [-1, 1]; for a silent scene a noise floor without a sound."""
    return sample_sequence(np.random.default_rng([scene.seed, 1]), scene.sounds, scene.duration)


def write_clip(scene: Scene, path: str | Path) -> None:
    """Write the scene as an mp4: H.264 at 10 frames per second and AAC mono, without an audio track when silent.

    Raises:
        OSError: the folder does not exist or cannot be written.
    """
    total = round(scene.duration * FRAMES_PER_SECOND)
    frames = render_frames(scene, [index / FRAMES_PER_SECOND for index in range(total)])
    samples = render_audio(scene) if scene.sounds else None
    write_mp4(Path(path), frames, frames_per_second=FRAMES_PER_SECOND, samples=samples, sampling_rate=SAMPLING_RATE)
