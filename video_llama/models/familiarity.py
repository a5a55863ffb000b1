"""How far the features of a medium are from those of the media that a model was trained on.

Input: hidden states of a ViT block (frames) or of an ImageBind audio block (sound), taken while a medium is encoded.
Output: whether the medium is unlike the training media. The features are pooled over the tokens of each frame or clip;
their distance is the Mahalanobis distance (Lee et al. 2018, arXiv 1807.03888), averaged over the frames or clips.
"""

# N frames or clips, L = 1 + P tokens of one of them (class token, patches), W their width, F feature size, R rank

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from video_llama.models.video_llama import VideoLlamaModel

Part = Literal["frames", "sound"]
Pooling = Literal["class_and_mean", "tokens"]
PARTS, POOLINGS = get_args(Part), get_args(Pooling)

Features = Mapping[tuple[str, int], Tensor]
"""Hidden states [N, L, W] of the medium that was encoded last, by part and block."""


def pooled(hidden_NLW: Tensor, pooling: Pooling) -> Tensor:
    """Return features [N, F], or for the pooling "tokens" [N, P, W].

    - class_and_mean: class token, and mean of the patches; F = 2 W
    - tokens: the patches
    """
    hidden_NLW = hidden_NLW.float()
    class_NW, patches_NPW = hidden_NLW[:, 0], hidden_NLW[:, 1:]
    if pooling == "class_and_mean":
        return torch.cat([class_NW, patches_NPW.mean(dim=1)], dim=-1)
    return patches_NPW


@dataclass(frozen=True)
class FeatureTest:
    """One distance and its limits. A medium outside the limits is unlike the training media."""

    name: str
    part: Part
    block: int
    """Index of the block whose output is used."""
    pooling: Pooling
    limits: tuple[float, float]
    """Smallest and largest distance of a medium with several frames or clips."""
    limits_of_one: tuple[float, float]
    """The same for a medium with one frame or clip."""
    mean: Tensor
    """Mean of the training features [F]."""
    whitening: Tensor
    """Matrix [F, R] that maps centred training features to unit covariance."""

    def distance(self, hidden_NLW: Tensor) -> float:
        """Return the distance of a medium from its hidden states."""
        return self.distance_of(pooled(hidden_NLW, self.pooling).to(self.mean.device))

    def distance_of(self, features: Tensor) -> float:
        """Return the distance of pooled features: the mean over frames or clips; for "tokens" of the farthest patch.

        The root mean square distance of the training features is 1.
        """
        squares = ((features - self.mean) @ self.whitening).square().mean(dim=-1)
        distances = squares.sqrt()
        return float(distances.amax(dim=1).mean() if self.pooling == "tokens" else distances.mean())

    def is_passed(self, hidden_NLW: Tensor) -> bool:
        """Return whether the distance is within the limits; false for NaN."""
        low, high = self.limits if len(hidden_NLW) > 1 else self.limits_of_one
        return low <= self.distance(hidden_NLW) <= high


@dataclass(frozen=True)
class Familiarity:
    """The tests of a model, and the text shown if a medium fails one of them."""

    warning: str
    tests: tuple[FeatureTest, ...]

    def warnings(self, features: Features) -> list[str]:
        """Return the warning, or an empty list if the medium passes every test of the parts that it has."""
        tested = [(test, features.get((test.part, test.block))) for test in self.tests]
        return [] if all(hidden is None or test.is_passed(hidden) for test, hidden in tested) else [self.warning]


def blocks_of(body: VideoLlamaModel, part: str) -> Sequence[nn.Module]:
    """Return the blocks of the frozen encoder of frames, or of sound (empty without an audio branch)."""
    if part == "frames":
        return list(body.frame_encoder.vision_model.encoder.layers)
    return list(body.imagebind_audio.blocks) if hasattr(body, "imagebind_audio") else []


class FeatureRecorder:
    """Keeps the hidden states of chosen blocks while a medium is encoded, separately for each thread.

    Leaving it as a context manager removes its hooks from the model.
    """

    def __init__(self, body: VideoLlamaModel, keys: Sequence[tuple[str, int]]) -> None:
        self._local = threading.local()
        self._hooks = [
            blocks_of(body, part)[block].register_forward_hook(self._keep((part, block))) for part, block in set(keys)
        ]

    def __enter__(self) -> FeatureRecorder:
        return self

    def __exit__(self, *error: object) -> None:
        for hook in self._hooks:
            hook.remove()

    def _keep(self, key: tuple[str, int]) -> Callable[..., None]:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            kept = getattr(self._local, "kept", None)
            if kept is not None:
                hidden_NLW = output[0] if isinstance(output, tuple) else output
                kept[key] = torch.cat([kept[key], hidden_NLW]) if key in kept else hidden_NLW

        return hook

    @contextmanager
    def recording(self) -> Iterator[dict[tuple[str, int], Tensor]]:
        """Yield a dict that is filled with hidden states [N, L, W] while the block encodes one medium.

        The frames or clips can be encoded a few at a time.
        """
        self._local.kept = {}
        try:
            yield self._local.kept
        finally:
            self._local.kept = None
