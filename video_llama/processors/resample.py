"""Change of sampling rate by a windowed sinc, equal to torchaudio's ``resample`` with its defaults.

In: float32 [channels, samples] and two rates in Hz. Out: float32 [channels, ceil(samples * new / old)].
Source: J. O. Smith, "Digital Audio Resampling"; window hann, width 6 zero crossings, rolloff 0.99.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np

LOWPASS_WIDTH = 6  # zero crossings of the sinc on each side
ROLLOFF = 0.99  # cut-off as a fraction of the lower Nyquist frequency


def resample(waveform: np.ndarray, rate: int, new_rate: int) -> np.ndarray:
    """Resample [channels, samples] from ``rate`` to ``new_rate`` (Hz, integers above 0).

    Every output sample is a short dot product around its place in the input; outputs whose place has the same fraction
    share one kernel. Only taps under the window are used, so odd rates (44101 Hz) cost no more memory than round ones.
    """
    if rate < 1 or new_rate < 1:
        raise ValueError(f"Sampling rates are {rate} and {new_rate} Hz. Give 1 Hz or more.")
    if rate == new_rate:
        return waveform
    common = math.gcd(rate, new_rate)
    step, num_phases = rate // common, new_rate // common
    starts, kernels = _phase_kernels(step, num_phases)
    num_taps = kernels.shape[1]
    length = -(-waveform.shape[1] * num_phases // step)
    padded = np.pad(waveform, ((0, 0), (num_taps, num_taps + step)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, num_taps, axis=1)
    resampled = np.empty((waveform.shape[0], length), dtype=np.float32)
    for phase in range(min(num_phases, length)):
        count = -(-(length - phase) // num_phases)
        rows = windows[:, num_taps + starts[phase] :: step][:, :count]
        resampled[:, phase::num_phases] = rows @ kernels[phase]
    return resampled


@lru_cache(maxsize=8)
def _phase_kernels(step: int, num_phases: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the first input position of each phase (int64 [P], relative) and its taps (float32 [P, K])."""
    cutoff = min(step, num_phases) * ROLLOFF
    reach = LOWPASS_WIDTH * step / cutoff  # input samples on each side of the place
    place = np.arange(num_phases, dtype=np.float64) * step / num_phases
    starts = np.floor(place - reach).astype(np.int64)
    positions = starts[:, None] + np.arange(math.ceil(2 * reach) + 2)
    crossings = np.clip((positions - place[:, None]) * cutoff / step, -LOWPASS_WIDTH, LOWPASS_WIDTH)
    window = np.cos(crossings * math.pi / LOWPASS_WIDTH / 2) ** 2
    taps = np.sinc(crossings) * window * (cutoff / step)
    return starts, taps.astype(np.float32)
