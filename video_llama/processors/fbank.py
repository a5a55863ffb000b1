"""Kaldi's log-mel filter bank, computed for all clips in one FFT.

In: float32 [clips, samples]. Out: float32 [clips, frames, mel bins], natural log of power.
Source: Kaldi ``compute-fbank-feats`` with htk_compat, hanning window, no dither, no energy, as torchaudio's
``compliance.kaldi.fbank`` computes it and ImageBind calls it.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch

from video_llama.processors.sound_clips import window_samples

SHIFT_SECONDS = 0.010
PREEMPHASIS = 0.97
LOWEST_HZ = 20.0
SMALLEST_POWER = float(np.finfo(np.float32).eps)  # lower bound before the logarithm: silence is -15.94


def log_mel_filter_bank(clips: np.ndarray, rate: int, num_mel_bins: int) -> np.ndarray:
    """Return float32 [C, frames, num_mel_bins] for clips [C, samples] of one length.

    Number of frames: 1 + (samples - window) // shift. Raises ValueError for clips shorter than one window.
    """
    window, shift = window_samples(rate), int(rate * SHIFT_SECONDS)
    if window < 2 or shift < 1:
        raise ValueError(f"The sampling rate is {rate} Hz. Use 100 Hz or more.")
    if clips.shape[-1] < window:
        raise ValueError(f"A clip has {clips.shape[-1]} samples, fewer than a window ({window}). Give longer clips.")
    fft_length = 1 << (window - 1).bit_length()
    frames = torch.from_numpy(np.ascontiguousarray(clips, dtype=np.float32)).unfold(-1, window, shift)
    frames = frames - frames.mean(dim=-1, keepdim=True)
    before = torch.cat([frames[..., :1], frames[..., :-1]], dim=-1)
    frames = (frames - PREEMPHASIS * before) * torch.hann_window(window, periodic=False)
    power = torch.fft.rfft(frames, n=fft_length).abs().square()
    mel = power @ _mel_triangles(rate, fft_length, num_mel_bins)
    log_mel: np.ndarray = mel.clamp(min=SMALLEST_POWER).log().numpy()
    return log_mel


@lru_cache(maxsize=4)
def _mel_triangles(rate: int, fft_length: int, num_mel_bins: int) -> torch.Tensor:
    """Return float32 [fft_length // 2 + 1, bins]: triangular filters of equal width on the mel scale."""

    def mel(hertz: torch.Tensor) -> torch.Tensor:
        return 1127.0 * torch.log(1.0 + hertz / 700.0)

    low, high = mel(torch.tensor([LOWEST_HZ, rate / 2.0], dtype=torch.float64)).tolist()
    width = (high - low) / (num_mel_bins + 1)
    bins = torch.arange(num_mel_bins)
    left, centre, right = low + bins * width, low + (bins + 1.0) * width, low + (bins + 2.0) * width
    place = mel(rate / fft_length * torch.arange(fft_length // 2))[:, None]
    # Computed in float32 as in torchaudio's port of Kaldi: in narrow triangles another rounding shows at 2e-4.
    triangles = torch.minimum((place - left) / (centre - left), (right - place) / (right - centre)).clamp(min=0)
    return torch.nn.functional.pad(triangles, (0, 0, 0, 1))  # the Nyquist bin has no weight
