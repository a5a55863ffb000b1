"""Windowed-sinc resampling, equal to torchaudio's ``resample`` with its defaults.

In: float32 [channels, samples] and two rates in Hz. Out: float32 [channels, ceil(samples * new / old)], or a part.
Source: J. O. Smith, "Digital Audio Resampling"; window hann, width 6 zero crossings, rolloff 0.99.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import lru_cache

import numpy as np

LOWPASS_WIDTH = 6  # zero crossings of the sinc on each side
ROLLOFF = 0.99  # cut-off as a fraction of the lower Nyquist frequency
BLOCK_SAMPLES = 8192  # minimum length of a block of outputs
PHASES_AT_ONCE = 1024  # kernels computed at a time, to bound memory at rates without a common divisor
ROWS_MULTIPLE = 4  # BLAS processes rows in groups of four and sums a remainder in another order


def resample(waveform: np.ndarray, rate: int, new_rate: int) -> np.ndarray:
    """Resample [channels, samples] from ``rate`` to ``new_rate`` (Hz, integers above 0)."""
    resampler = Resampler(rate, new_rate)
    length = resampler.num_outputs(waveform.shape[1])
    first, last = resampler.inputs_of(0, length)
    beyond = max(last - waveform.shape[1], 0)
    return resampler(np.pad(waveform[:, :last], ((0, 0), (-first, beyond))), 0, length)


class Resampler:
    """Resample any part of a track, bit-identical to resampling the whole.

    Every output sample is a dot product around its position in the input; outputs whose positions have the same
    fraction share one kernel. Only taps inside the window are stored, so unusual rates (44101 Hz) need no more memory
    than common ones. Outputs are computed in whole blocks counted from the start of the track, because the rounding of
    a product depends on the shape of its matrix.
    """

    def __init__(self, rate: int, new_rate: int) -> None:
        if rate < 1 or new_rate < 1:
            raise ValueError(f"Sampling rates are {rate} and {new_rate} Hz. Give 1 Hz or more.")
        common = math.gcd(rate, new_rate)
        self._step, self._num_phases = rate // common, new_rate // common
        self._is_same = rate == new_rate
        self._starts, self._kernels = _phase_kernels(self._step, self._num_phases)
        self._num_rows = ROWS_MULTIPLE * math.ceil(BLOCK_SAMPLES / (ROWS_MULTIPLE * self._num_phases))

    @property
    def block_length(self) -> int:
        """Number of outputs of a block."""
        return self._num_rows * self._num_phases

    def num_outputs(self, num_samples: int) -> int:
        """Return the length of a track of ``num_samples`` after resampling."""
        return -(-num_samples * self._num_phases // self._step)

    def inputs_of(self, first: int, last: int) -> tuple[int, int]:
        """Return (first, last + 1) of the input samples needed for the outputs ``first`` to ``last`` (excluded).

        The range can exceed the track on both sides, where samples are zero.
        """
        if self._is_same:
            return first, last
        rows = [block * self._num_rows for block in self._blocks(first, last)]
        num_taps = self._kernels.shape[1]
        end = (rows[-1] + self._num_rows - 1) * self._step + int(self._starts.max()) + num_taps
        return rows[0] * self._step + int(self._starts.min()), end

    def __call__(self, samples: np.ndarray, first: int, last: int) -> np.ndarray:
        """Return the outputs ``first`` to ``last`` (excluded) from float32 [channels, samples of ``inputs_of``]."""
        if self._is_same:
            return samples
        blocks = self._blocks(first, last)
        block_length, block_step = self.block_length, self._num_rows * self._step
        resampled = np.empty((samples.shape[0], len(blocks) * block_length), dtype=np.float32)
        # Interleaved channels would be summed without BLAS, in another order.
        samples = np.ascontiguousarray(samples)
        windows = np.lib.stride_tricks.sliding_window_view(samples, self._kernels.shape[1], axis=1)
        places = self._starts - self._starts.min()
        for block in range(len(blocks)):
            outputs = resampled[:, block * block_length : (block + 1) * block_length]
            for phase, kernel in enumerate(self._kernels):
                start = block * block_step + places[phase]
                rows = windows[:, start : start + block_step : self._step]
                outputs[:, phase :: self._num_phases] = rows @ kernel
        offset = first - blocks[0] * block_length
        return resampled[:, offset : offset + last - first]

    def _blocks(self, first: int, last: int) -> range:
        block_length = self.block_length
        return range(first // block_length, max(-(-last // block_length), first // block_length + 1))


class StreamResampler:
    """Resample a stream of blocks, equal to resampling their concatenation."""

    def __init__(self, rate: int, new_rate: int) -> None:
        self.rate = rate
        self._resampler = Resampler(rate, new_rate)
        self._held: np.ndarray | None = None
        self._held_from = 0
        self._num_samples = self._num_outputs = 0

    def add(self, samples: np.ndarray) -> Iterator[np.ndarray]:
        """Yield the outputs that can be computed after ``samples`` [channels, samples], in whole blocks."""
        self._held = samples if self._held is None else np.concatenate([self._held, samples], axis=1)
        self._num_samples += samples.shape[1]
        length = self._resampler.block_length
        while self._resampler.inputs_of(self._num_outputs, self._num_outputs + length)[1] <= self._num_samples:
            yield self._outputs(self._num_outputs + length)

    def finish(self) -> Iterator[np.ndarray]:
        """Yield the remaining outputs."""
        last = self._resampler.num_outputs(self._num_samples)
        if last > self._num_outputs:
            yield self._outputs(last)

    def _outputs(self, last: int) -> np.ndarray:
        assert self._held is not None, "samples were added"
        first, end = self._resampler.inputs_of(self._num_outputs, last)
        held = self._held[:, max(first - self._held_from, 0) : max(end - self._held_from, 0)]
        before, after = max(self._held_from - first, 0) if first < 0 else 0, max(end - self._num_samples, 0)
        outputs = self._resampler(np.pad(held, ((0, 0), (before, after))), self._num_outputs, last)
        self._num_outputs = last
        keep = max(self._resampler.inputs_of(last, last + 1)[0], self._held_from)
        self._held, self._held_from = self._held[:, keep - self._held_from :], keep
        return outputs


@lru_cache(maxsize=8)
def _phase_kernels(step: int, num_phases: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the first input position of each phase (int64 [P], relative) and its taps (float32 [P, K])."""
    cutoff = min(step, num_phases) * ROLLOFF
    reach = LOWPASS_WIDTH * step / cutoff  # input samples on each side of the position
    place = np.arange(num_phases, dtype=np.float64) * step / num_phases
    starts = np.floor(place - reach).astype(np.int64)
    taps = np.empty((num_phases, math.ceil(2 * reach) + 2), dtype=np.float32)
    for first in range(0, num_phases, PHASES_AT_ONCE):
        phases = slice(first, first + PHASES_AT_ONCE)
        positions = starts[phases, None] + np.arange(taps.shape[1])
        crossings = np.clip((positions - place[phases, None]) * cutoff / step, -LOWPASS_WIDTH, LOWPASS_WIDTH)
        window = np.cos(crossings * math.pi / LOWPASS_WIDTH / 2) ** 2
        taps[phases] = np.sinc(crossings) * window * (cutoff / step)
    return starts, taps
