"""Data augmentation for training: a random resized crop.

In: uint8 frames [T, 3, H, W]. Out: the same number of frames, a random part of each, bicubically resized.
Source: torchvision's ``RandomResizedCrop`` (the order of its random draws is kept, so a torch seed gives its boxes).
"""

from __future__ import annotations

import math

import numpy as np
import torch

CropBox = tuple[int, int, int, int]  # top, left, height, width in pixels

ASPECT_RATIOS = (3.0 / 4.0, 4.0 / 3.0)  # width / height of the crop
MAX_DRAWS = 10


def augment(
    frames: np.ndarray,
    size: tuple[int, int],
    scale: tuple[float, float],
    rng: torch.Generator | None = None,
) -> np.ndarray:
    """Crop the same random part of all frames and resize it (bicubic) to ``size``; uint8 [T, 3, H, W] in and out.

    ``scale`` is the range of the crop's share of the area; ``rng`` None is torch's global generator. Values that the
    interpolation takes out of range are clamped (in the reference they wrap around).
    """
    height, width = frames.shape[-2:]
    return to_uint8(crop_and_resize(frames, random_crop(height, width, scale=scale, rng=rng), size))


def random_crop(
    height: int,
    width: int,
    scale: tuple[float, float],
    ratio: tuple[float, float] = ASPECT_RATIOS,
    rng: torch.Generator | None = None,
) -> CropBox:
    """Draw (top, left, height, width) of a crop whose share of the area is in the range ``scale``.

    If ten draws do not fit into the frame, the largest centred crop of an allowed aspect ratio is returned.
    """
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


def crop_and_resize(frames: np.ndarray, box: CropBox, size: tuple[int, int]) -> np.ndarray:
    """Crop uint8 [T, 3, H, W] to ``box`` and resize it to ``size`` (height, width).

    Returns float32 that can exceed 0..255: bicubic interpolation (no antialiasing, align_corners=False) overshoots.
    """
    top, left, height, width = box
    part = torch.from_numpy(np.ascontiguousarray(frames[..., top : top + height, left : left + width])).float()
    resized: torch.Tensor = torch.nn.functional.interpolate(part, size=size, mode="bicubic", align_corners=False)
    floats: np.ndarray = resized.numpy()
    return floats


def to_uint8(frames: np.ndarray) -> np.ndarray:
    """Round and clamp float frames to uint8."""
    ints: np.ndarray = np.clip(np.rint(frames), 0, 255).astype(np.uint8)
    return ints
