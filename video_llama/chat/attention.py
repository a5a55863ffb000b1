"""Cross-attention of the video and audio Q-Former queries over the frames and clips of a medium.

In: frames and mel clips as tensors. Out: the share of each query's attention on each frame or clip. The queries do not
depend on the question (arXiv 2306.02858, section 2.1), so neither does the result.
"""

# T frames, S clips, K tokens per frame, H their width, Q queries

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from video_llama.models.qformer import SequenceQFormer
from video_llama.models.video_llama import VideoLlamaModel


@dataclass(frozen=True)
class QueryAttention:
    """Shares as float32, averaged over layers and heads; every row sums to 1. None if the medium has no such part."""

    frames_QT: np.ndarray | None
    clips_QS: np.ndarray | None


def query_attention(body: VideoLlamaModel, frames: Tensor | None, mel: Tensor | None) -> QueryAttention:
    """Encode normalized frames [T, 3, H, W] and mel clips [S, 1, bins, steps] and return the queries' attention.

    The attention implementation is switched during the call, so no other thread may use the model.
    """
    with torch.no_grad():
        frame_shares = clip_shares = None
        if frames is not None:
            frame_shares = _shares(body.video_qformer, body.encode_frames(frames[None])[0])
        if mel is not None:
            clip_shares = _shares(body.audio_qformer, body.encode_clips(mel[None])[0][:, None])
    return QueryAttention(frame_shares, clip_shares)


def _shares(qformer: SequenceQFormer, steps_TKH: Tensor) -> np.ndarray:
    """Return [Q, T] from [T, K, H]: the share of a step is the sum over its tokens."""
    steps_TKH = steps_TKH.to(qformer.query_tokens.device)  # of a model on several devices
    with _eager(qformer):
        _, layers = qformer.query(qformer.add_positions(steps_TKH[None]), output_attentions=True)
    mean_QS = torch.stack([layer[0].float().mean(dim=0) for layer in layers]).mean(dim=0)
    shares: np.ndarray = mean_QS.view(len(mean_QS), *steps_TKH.shape[:2]).sum(dim=2).cpu().numpy()
    return shares


@contextmanager
def _eager(qformer: SequenceQFormer) -> Iterator[None]:
    """Use the eager implementation inside the block; the fused ones return no attention weights."""
    transformer = qformer.qformer
    before = transformer.config._attn_implementation
    transformer.set_attn_implementation("eager")
    try:
        yield
    finally:
        transformer.set_attn_implementation(before)
