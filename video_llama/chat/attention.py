"""Where the queries of a medium look: the cross-attention of the video and the audio Q-Former.

In: a medium's frames and mel clips as tensors. Out: what share of each query's attention falls on each frame, or clip.
The queries never see the question (arXiv 2306.02858, section 2.1), so this is the same whatever is asked.
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
    """Shares as float32, averaged over layers and heads; every row sums to 1. None where a medium has no such part."""

    frames_QT: np.ndarray | None
    clips_QS: np.ndarray | None


def query_attention(body: VideoLlamaModel, frames: Tensor | None, mel: Tensor | None) -> QueryAttention:
    """Encode normalised frames [T, 3, H, W] and mel clips [S, 1, bins, steps] once more, and look at the queries.

    The model's attention is switched for the time of the call: nothing else may run it meanwhile.
    """
    with torch.no_grad():
        seen = heard = None
        if frames is not None:
            seen = _shares(body.video_qformer, body.encode_frames(frames[None])[0])
        if mel is not None:
            heard = _shares(body.audio_qformer, body.encode_clips(mel[None])[0][:, None])
    return QueryAttention(seen, heard)


def _shares(qformer: SequenceQFormer, steps_TKH: Tensor) -> np.ndarray:
    """[T, K, H] -> [Q, T]: a step's share is the sum over its tokens."""
    with _eager(qformer):
        _, layers = qformer.query(qformer.add_positions(steps_TKH[None]), output_attentions=True)
    mean_QS = torch.stack([layer[0].float().mean(dim=0) for layer in layers]).mean(dim=0)
    shares: np.ndarray = mean_QS.view(len(mean_QS), *steps_TKH.shape[:2]).sum(dim=2).cpu().numpy()
    return shares


@contextmanager
def _eager(qformer: SequenceQFormer) -> Iterator[None]:
    """transformers returns attentions only from its own plain implementation, not from torch's fused one."""
    transformer = qformer.qformer
    before = transformer.config._attn_implementation
    transformer.set_attn_implementation("eager")
    try:
        yield
    finally:
        transformer.set_attn_implementation(before)
