"""Synthesise the four sounds of the miniature's clips, as float32 samples at 16 kHz in [-1, 1].

A circle has a low hum, a square a buzz, a triangle high beeps, a star a hiss. Pitch, phase, spectrum, amplitude
modulation, loudness and noise floor are random, so that an encoder learns the type of sound and not a recording.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

Samples = NDArray[np.float32]

SAMPLING_RATE = 16_000  # Hz
LOUDNESS = (0.04, 0.7)  # peak of a sound, log-uniform
NOISE_FLOOR = (1e-4, 4e-3)  # standard deviation of the background noise, log-uniform
FADE_SECONDS = 0.02
BAND_LIMITED_SHARE = 0.5  # share of sounds without high frequencies, as after a codec
BAND_EDGE = (3500.0, 8000.0)  # Hz

HUM_PITCH, HUM_HARMONICS = (90.0, 150.0), 3
BUZZ_PITCH, BUZZ_HARMONICS = (180.0, 300.0), 21
BEEP_PITCH, BEEP_GATE = (1300.0, 2300.0), (3.0, 6.0)


def log_uniform(rng: np.random.Generator, bounds: tuple[float, float]) -> float:
    """Draw a number between two positive bounds, uniform in its logarithm."""
    return float(np.exp(rng.uniform(np.log(bounds[0]), np.log(bounds[1]))))


def _harmonics(rng: np.random.Generator, pitch: float, amplitudes: NDArray[np.float64], num_samples: int) -> Samples:
    """Return a tone with slight vibrato: the sum of amplitude_k sin(k phase + random_k), by Horner's rule."""
    seconds = np.arange(num_samples) / SAMPLING_RATE
    vibrato = rng.uniform(0, 0.02) * np.sin(2 * np.pi * rng.uniform(2, 6) * seconds + rng.uniform(0, 2 * np.pi))
    turn = np.exp(1j * (2 * np.pi * pitch * seconds + rng.uniform(0, 2 * np.pi) + vibrato * 5)).astype(np.complex64)
    weights = (amplitudes * np.exp(2j * np.pi * rng.uniform(size=len(amplitudes)))).astype(np.complex64)
    total = np.full(num_samples, weights[-1])
    for weight in weights[-2::-1]:
        total *= turn
        total += weight
    total *= turn
    tone: Samples = np.ascontiguousarray(total.imag)
    return tone


def _hum(rng: np.random.Generator, num_samples: int) -> Samples:
    amplitudes = np.array([1.0, rng.uniform(0.15, 0.6), rng.uniform(0.05, 0.35)])[:HUM_HARMONICS]
    return _harmonics(rng, log_uniform(rng, HUM_PITCH), amplitudes, num_samples)


def _buzz(rng: np.random.Generator, num_samples: int) -> Samples:
    ranks = np.arange(1, BUZZ_HARMONICS + 1)
    amplitudes = ranks ** -rng.uniform(0.3, 0.9) * rng.uniform(0.6, 1.0, size=BUZZ_HARMONICS)
    return _harmonics(rng, log_uniform(rng, BUZZ_PITCH), amplitudes, num_samples)


def _beeps(rng: np.random.Generator, num_samples: int) -> Samples:
    tone = _harmonics(rng, log_uniform(rng, BEEP_PITCH), np.array([1.0, rng.uniform(0.0, 0.25)]), num_samples)
    beat = 2 * np.pi * rng.uniform(*BEEP_GATE) * np.arange(num_samples) / SAMPLING_RATE + rng.uniform(0, 2 * np.pi)
    gate = np.clip(0.5 + (np.sin(beat) + rng.uniform(-0.4, 0.4)) * rng.uniform(4, 10), 0, 1)
    return tone * gate.astype(np.float32)


def _hiss(rng: np.random.Generator, num_samples: int) -> Samples:
    noise = rng.standard_normal(num_samples + 1, dtype=np.float32)
    return noise[1:] - np.float32(rng.uniform(0.7, 1.0)) * noise[:-1]


MAKERS: dict[str, Callable[[np.random.Generator, int], Samples]] = {
    "circle": _hum,
    "square": _buzz,
    "triangle": _beeps,
    "star": _hiss,
}


def _bare_sound(rng: np.random.Generator, shape: str, num_samples: int) -> Samples:
    """Return a sound without background noise: slow amplitude modulation, faded ends, random loudness."""
    sound = MAKERS[shape](rng, num_samples)
    seconds = np.arange(num_samples, dtype=np.float32) / SAMPLING_RATE
    swell = np.sin(np.float32(2 * np.pi * rng.uniform(0.2, 1.5)) * seconds + np.float32(rng.uniform(0, 2 * np.pi)))
    sound *= 1 + np.float32(rng.uniform(0, 0.35)) * swell
    fade = min(int(FADE_SECONDS * SAMPLING_RATE), num_samples // 2)
    ramp = np.linspace(0, 1, fade, endpoint=False, dtype=np.float32)
    sound[:fade] *= ramp
    sound[num_samples - fade :] *= ramp[::-1]
    peak = float(np.abs(sound).max()) if num_samples else 1.0
    loud: Samples = sound * np.float32(log_uniform(rng, LOUDNESS) / max(peak, 1e-6))
    return loud


def _band_limit(rng: np.random.Generator, samples: Samples) -> Samples:
    """Remove the frequencies above a random one."""
    spectrum = np.fft.rfft(samples)
    spectrum[int(rng.uniform(*BAND_EDGE) / SAMPLING_RATE * len(samples)) :] = 0
    limited: Samples = np.fft.irfft(spectrum, len(samples)).astype(np.float32)
    return limited


def sample_sequence(rng: np.random.Generator, shapes: Sequence[str], seconds: float) -> Samples:
    """Return the sounds of one or more shapes one after the other, equally long, with background noise.

    Args:
        rng: random generator; the same state gives the same samples.
        shapes: shapes that sound, in order. With none, only the background noise is returned.
        seconds: total length in seconds.

    Returns:
        float32 [round(seconds * 16000)] in [-1, 1].

    Raises:
        ValueError: an unknown shape.
    """
    for shape in shapes:
        if shape not in MAKERS:
            raise ValueError(f"{shape!r} has no sound: use one of {', '.join(MAKERS)}")
    num_samples = round(seconds * SAMPLING_RATE)
    borders = [num_samples * part // max(len(shapes), 1) for part in range(len(shapes) + 1)]
    samples = rng.standard_normal(num_samples, dtype=np.float32) * np.float32(log_uniform(rng, NOISE_FLOOR))
    for shape, (start, end) in zip(shapes, pairwise(borders), strict=True):
        samples[start:end] += _bare_sound(rng, shape, end - start)
    if num_samples and rng.random() < BAND_LIMITED_SHARE:
        samples = _band_limit(rng, samples)
    clipped: Samples = np.clip(samples, -1, 1)
    return clipped


def sample_sound(rng: np.random.Generator, shape: str, seconds: float = 2.0) -> Samples:
    """Return the sound of one shape: float32 [round(seconds * 16000)] at 16 kHz in [-1, 1]."""
    return sample_sequence(rng, (shape,), seconds)
