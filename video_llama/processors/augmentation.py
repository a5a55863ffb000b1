"""Random resized crop for training.

In: uint8 frames [T, 3, H, W]. Out: the same number of frames, a random part of each, bicubically resized.
Source: torchvision's ``RandomResizedCrop`` (the order of its random draws is kept, so a torch seed gives its boxes).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch

Box = tuple[int, int, int, int]  # top, left, height, width in pixels

ASPECT_RATIOS = (3.0 / 4.0, 4.0 / 3.0)  # width / height of the part
MAX_DRAWS = 10


def random_crop(
    height: int,
    width: int,
    scale: tuple[float, float],
    ratio: tuple[float, float] = ASPECT_RATIOS,
    rng: torch.Generator | None = None,
) -> Box:
    """Draw (top, left, height, width) of a part with an area of ``scale`` times the frame's.

    After ten draws that do not fit, the largest centred part of an allowed aspect ratio is taken.
    """
    import torch

    low, high = math.log(ratio[0]), math.log(ratio[1])
    for _ in range(MAX_DRAWS):
        area = height * width * torch.empty(1).uniform_(scale[0], scale[1], generator=rng).item()
        aspect = torch.exp(torch.empty(1).uniform_(low, high, generator=rng)).item()
        part_width, part_height = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < part_width <= width and 0 < part_height <= height:
            top = int(torch.randint(0, height - part_height + 1, (1,), generator=rng).item())
            left = int(torch.randint(0, width - part_width + 1, (1,), generator=rng).item())
            return top, left, part_height, part_width
    aspect = min(max(width / height, ratio[0]), ratio[1])
    part_width = min(width, round(height * aspect))
    part_height = min(height, round(width / aspect))
    return (height - part_height) // 2, (width - part_width) // 2, part_height, part_width


def crop_and_resize(frames: np.ndarray, box: Box, size: tuple[int, int]) -> np.ndarray:
    """Cut ``box`` out of uint8 [T, 3, H, W] and resize it to ``size`` (height, width).

    Returns float32 that may lie outside 0..255: bicubic interpolation (no antialias, corners not aligned) overshoots.
    """
    import torch

    top, left, height, width = box
    part = torch.from_numpy(np.ascontiguousarray(frames[..., top : top + height, left : left + width])).float()
    resized: torch.Tensor = torch.nn.functional.interpolate(part, size=size, mode="bicubic", align_corners=False)
    floats: np.ndarray = resized.numpy()
    return floats


def to_uint8(frames: np.ndarray) -> np.ndarray:
    """Round and clamp float frames to uint8."""
    ints: np.ndarray = np.clip(np.rint(frames), 0, 255).astype(np.uint8)
    return ints
