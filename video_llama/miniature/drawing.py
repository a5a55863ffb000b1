"""Compute how much of each pixel a shape covers, with smooth edges.

Edges are computed from signed distances to the outline: a pixel whose centre is d px outside is covered by 0.5 - d,
clipped to [0, 1]. Only the square box around the shape is computed; a frame takes well under 1 ms.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

# T frames, E edge of the box in pixels

Floats = NDArray[np.float32]

SQUARE_HALF_SIDE = 0.86  # relative to the radius, so that a square looks as large as a circle
POINTED_RADIUS = 1.15  # circumradius of triangle and star, relative to the radius
STAR_INNER_RADIUS = 0.45  # relative to the star's outer radius
STAR_POINTS = 5


def _circle(across: Floats, down: Floats, radius: float) -> Floats:
    return np.sqrt(across * across + down * down) - np.float32(radius)


def _square(across: Floats, down: Floats, radius: float) -> Floats:
    distance: Floats = np.maximum(np.abs(across), np.abs(down)) - np.float32(SQUARE_HALF_SIDE * radius)
    return distance


def _triangle(across: Floats, down: Floats, radius: float) -> Floats:
    slanted = np.float32(np.sqrt(0.75)) * np.abs(across) - np.float32(0.5) * down
    distance: Floats = np.maximum(down, slanted) - np.float32(POINTED_RADIUS * radius / 2)
    return distance


def _star(across: Floats, down: Floats, radius: float) -> Floats:
    outer = POINTED_RADIUS * radius
    inner = STAR_INNER_RADIUS * outer
    half_sector = np.pi / STAR_POINTS
    angle = np.arctan2(across, -down) + np.float32(half_sector)
    folded = np.abs(np.mod(angle, np.float32(2 * half_sector)) - np.float32(half_sector))
    length = np.sqrt(across * across + down * down)
    # The folded sector has one straight edge, from the tip (outer, 0) to the notch.
    edge_x, edge_y = inner * np.cos(half_sector) - outer, inner * np.sin(half_sector)
    norm = float(np.hypot(edge_x, edge_y))
    normal_x, normal_y = edge_y / norm, -edge_x / norm
    along = np.float32(normal_x) * (length * np.cos(folded) - np.float32(outer))
    distance: Floats = along + np.float32(normal_y) * length * np.sin(folded)
    return distance


DISTANCES: dict[str, Callable[[Floats, Floats, float], Floats]] = {
    "circle": _circle,
    "square": _square,
    "triangle": _triangle,
    "star": _star,
}


def extent(shape: str, radius: float, rotation: float) -> float:
    """Return an upper bound of the distance from the centre to the outline along an axis, in pixels."""
    if shape == "circle":
        return radius
    if shape == "square":
        return SQUARE_HALF_SIDE * radius * (abs(float(np.cos(rotation))) + abs(float(np.sin(rotation))))
    return POINTED_RADIUS * radius


def box_coverage(
    shape: str, centres: NDArray[Any], radius: float, rotation: float, frame_size: int
) -> tuple[Floats, NDArray[np.int64]]:
    """Return the covered fraction of each pixel in a box around a shape.

    Args:
        shape: one of ``DISTANCES``.
        centres: [T, 2], x and y of the centre in pixels, from the top left corner of the frame.
        radius: radius in pixels.
        rotation: rotation in radians, clockwise.
        frame_size: side of the square frame in pixels. Boxes are inside the frame.

    Returns:
        coverage float32 [T, E, E] in [0, 1], and corners int [T, 2]: x and y of each box's top left pixel.
    """
    reach = int(np.ceil(extent(shape, radius, rotation))) + 1
    edge = min(2 * reach + 1, frame_size)
    corners = np.clip(np.floor(centres).astype(np.int64) - reach, 0, frame_size - edge)
    offsets = (corners - centres + 0.5).astype(np.float32)
    steps = np.arange(edge, dtype=np.float32)
    right = offsets[:, 0, None, None] + steps[None, None, :]
    below = offsets[:, 1, None, None] + steps[None, :, None]
    cosine, sine = np.float32(np.cos(rotation)), np.float32(np.sin(rotation))
    distance = DISTANCES[shape](cosine * right + sine * below, cosine * below - sine * right, radius)
    coverage: Floats = np.clip(np.float32(0.5) - distance, 0.0, 1.0)
    return coverage, corners
