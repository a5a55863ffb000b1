"""Vectors of media for search and clustering: one per frame, one per video, one per sound clip."""

# N media, T frames, S clips, K queries per frame, Q queries per medium, H Q-Former width, E ImageBind embedding width

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional

if TYPE_CHECKING:
    from video_llama.models.video_llama import VideoLlamaModel


@dataclass(frozen=True)
class FrameVectors:
    """The vectors of one video or image, float32 on the CPU."""

    frames_TH: Tensor
    """Mean of the query outputs of the frame Q-Former, one vector per frame."""
    clip_H: Tensor
    """Mean of the query outputs of the video Q-Former, before the projection to the decoder."""


@torch.no_grad()
def frame_vectors(model: VideoLlamaModel, pixel_values_videos: Tensor) -> list[FrameVectors]:
    """Return the vectors of normalised videos [N, T, 3, height, width]."""
    frames_NTKH = model.encode_frames(pixel_values_videos)
    qformer = model.video_qformer
    # One medium at a time: on a CPU the last bits of a product may depend on the number of its rows.
    clips_NH = torch.cat([qformer.query(qformer.add_positions(frames[None]))[0].mean(dim=1) for frames in frames_NTKH])
    pairs = zip(frames_NTKH.mean(dim=2).float().cpu(), clips_NH.float().cpu(), strict=True)
    return [FrameVectors(frames_TH, clip_H) for frames_TH, clip_H in pairs]


@torch.no_grad()
def sound_vectors(model: VideoLlamaModel, input_features: Tensor) -> Tensor:
    """Return the ImageBind embeddings of mel clips [N, S, 1, mel bins, steps] as [N, S, E] of norm 1, float32.

    They are comparable with ImageBind's embeddings of pictures and texts, which have norm 1.
    """
    return functional.normalize(model.encode_clips(input_features).float(), dim=-1).cpu()
