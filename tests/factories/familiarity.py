"""The file of a model folder that makes its model warn about every picture."""

from __future__ import annotations

from pathlib import Path

import torch

from video_llama.checkpoints.familiarity import write_familiarity
from video_llama.models.familiarity import Familiarity, FeatureTest

WARNING = "This medium is unlike the training media."


def warn_about_pictures(folder: Path, width: int = 20) -> Path:
    """Write the file into the folder of a tiny model and return its path. No picture has a distance this small."""
    limits = (0.0, 1e-9)
    size = 2 * width
    test = FeatureTest("picture", "frames", 0, "class_and_mean", limits, limits, torch.zeros(size), torch.eye(size))
    return write_familiarity(folder, Familiarity(WARNING, (test,)))
