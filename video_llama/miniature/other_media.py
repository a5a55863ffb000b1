"""Pictures and sounds unlike those of the miniature: noise, gradients, text, test patterns, chords, speech-like sounds.

They measure the warning about unfamiliar clips (``familiarity.py``). Input: a random generator. Output: frames, audio
samples and mp4 files. No statistics and no threshold of the miniature are computed from them.
"""

from __future__ import annotations

import wave
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from video_llama.miniature.mp4 import write_mp4
from video_llama.miniature.sounds import SAMPLING_RATE, Samples, log_uniform

# T frames, H height, W width, C = 3 colour channels

Frames = NDArray[np.uint8]
Picture = NDArray[np.float32]

NUM_FRAMES, FRAMES_PER_SECOND = 30, 10
SECONDS = NUM_FRAMES / FRAMES_PER_SECOND
SIZES = ((84, 84), (240, 320), (180, 320), (320, 180))  # H, W
WORDS = ("the", "of", "and", "to", "which", "for", "that", "with", "as", "on", "from", "this", "have", "they", "been")


def _grid(size: tuple[int, int]) -> tuple[Picture, Picture]:
    """Return y and x of every pixel [H, W], from 0 to 1."""
    height, width = size
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    return y / height, x / width


def _colour(rng: np.random.Generator) -> Picture:
    return rng.uniform(0, 255, size=3).astype(np.float32)


def _mix(share_HW: Picture, first: Picture, second: Picture) -> Picture:
    mixed: Picture = first + share_HW[..., None] * (second - first)
    return mixed


def _octaves(rng: np.random.Generator, size: tuple[int, int], channels: int) -> Picture:
    """Return noise with a spectrum like that of photographs, [H, W, channels] from 0 to 1."""
    height, width = size
    total = np.zeros((height, width, channels), dtype=np.float32)
    for octave in range(1, 7):
        cells = 2**octave
        coarse = rng.standard_normal((cells, cells, channels)).astype(np.float32)
        for channel in range(channels):
            layer = Image.fromarray(coarse[..., channel]).resize((width, height), Image.Resampling.BICUBIC)
            total[..., channel] += np.asarray(layer) / octave
    low, high = total.min(axis=(0, 1)), total.max(axis=(0, 1))
    scaled: Picture = (total - low) / np.maximum(high - low, 1e-6)
    return scaled


def _rolled(picture: Picture, rng: np.random.Generator) -> list[Picture]:
    """Return frames in which a picture moves sideways, or stays still."""
    step = int(rng.integers(-4, 5))
    return [np.roll(picture, step * index, axis=1) for index in range(NUM_FRAMES)]


def _noise(rng: np.random.Generator, size: tuple[int, int]) -> list[Picture]:
    low, high = np.sort(rng.uniform(0, 255, size=2))
    return [rng.uniform(low, high, size=(*size, 3)).astype(np.float32) for _ in range(NUM_FRAMES)]


def _clouds(rng: np.random.Generator, size: tuple[int, int]) -> list[Picture]:
    return _rolled(255 * _octaves(rng, size, 3), rng)


def _gradient(rng: np.random.Generator, size: tuple[int, int]) -> list[Picture]:
    (y, x), angle, first, second = _grid(size), rng.uniform(0, 2 * np.pi), _colour(rng), _colour(rng)
    share = (np.cos(angle) * (x - 0.5) + np.sin(angle) * (y - 0.5)) / 1.42 + 0.5
    return _rolled(_mix(share, first, second), rng)


def _radial_gradient(rng: np.random.Generator, size: tuple[int, int]) -> list[Picture]:
    (y, x), centre, first, second = _grid(size), rng.uniform(0.2, 0.8, size=2), _colour(rng), _colour(rng)
    distance = np.hypot(y - centre[0], x - centre[1])
    return _rolled(_mix(distance / distance.max(), first, second), rng)


def _plain(rng: np.random.Generator, size: tuple[int, int]) -> list[Picture]:
    colour = _colour(rng) * np.float32(rng.integers(2))  # black in half of the clips
    return [np.broadcast_to(colour, (*size, 3)).astype(np.float32)] * NUM_FRAMES


def _fade(rng: np.random.Generator, size: tuple[int, int]) -> list[Picture]:
    first, second = _colour(rng), _colour(rng)
    steps = np.linspace(0, 1, NUM_FRAMES, dtype=np.float32)
    return [np.broadcast_to(first + step * (second - first), (*size, 3)).astype(np.float32) for step in steps]


def _text(rng: np.random.Generator, size: tuple[int, int]) -> list[Picture]:
    height, width = size
    is_dark = rng.random() < 0.5
    page = Image.new("RGB", (width, 2 * height), (20, 20, 20) if is_dark else (245, 245, 240))
    draw, font = ImageDraw.Draw(page), ImageFont.load_default(float(rng.uniform(9, 24)))
    lines = [" ".join(rng.choice(WORDS, size=12)) for _ in range(60)]
    draw.multiline_text((4, 4), "\n".join(lines), (235, 235, 235) if is_dark else (10, 10, 10), font)
    picture, step = np.asarray(page, dtype=np.float32), int(rng.integers(0, 3))
    return [picture[step * index : step * index + height] for index in range(NUM_FRAMES)]


def _title(rng: np.random.Generator, size: tuple[int, int]) -> list[Picture]:
    """Return a title card: a few large letters on a plain or noisy ground."""
    height, width = size
    page = Image.new("RGB", (width, height), tuple(int(level) for level in _colour(rng)))
    font = ImageFont.load_default(height * float(rng.uniform(0.2, 0.45)))
    word = "".join(rng.choice(list("ABCDEFGHKMNPRSTUVWXYZ23456789"), size=int(rng.integers(2, 6))))
    place = (width * float(rng.uniform(0, 0.2)), height * float(rng.uniform(0.05, 0.5)))
    ImageDraw.Draw(page).text(place, word, tuple(int(level) for level in _colour(rng)), font)
    return _rolled(np.asarray(page, dtype=np.float32), rng)


def _colour_bars(rng: np.random.Generator, size: tuple[int, int]) -> list[Picture]:
    bars = np.array([[1, 1, 1], [1, 1, 0], [0, 1, 1], [0, 1, 0], [1, 0, 1], [1, 0, 0], [0, 0, 1]], dtype=np.float32)
    column = (np.arange(size[1]) * len(bars) // size[1]).astype(int)
    picture = np.repeat(bars[column][None], size[0], axis=0) * np.float32(rng.uniform(150, 255))
    foot = size[0] - size[0] // 4
    picture[foot:] = np.linspace(0, 255, size[1], dtype=np.float32)[None, :, None]
    return _rolled(picture, rng)


def _checkerboard(rng: np.random.Generator, size: tuple[int, int]) -> list[Picture]:
    (y, x), cells = _grid(size), int(rng.integers(3, 24))
    share = ((y * cells).astype(int) + (x * cells).astype(int)) % 2
    return _rolled(_mix(share.astype(np.float32), _colour(rng), _colour(rng)), rng)


def _stripes(rng: np.random.Generator, size: tuple[int, int]) -> list[Picture]:
    (y, x), angle, waves = _grid(size), rng.uniform(0, np.pi), rng.uniform(2, 25)
    share = 0.5 + 0.5 * np.sin(2 * np.pi * waves * (np.cos(angle) * x + np.sin(angle) * y))
    return _rolled(_mix(share.astype(np.float32), _colour(rng), _colour(rng)), rng)


def _zone_plate(rng: np.random.Generator, size: tuple[int, int]) -> list[Picture]:
    (y, x), waves = _grid(size), rng.uniform(5, 40)
    share = 0.5 + 0.5 * np.cos(waves * 4 * ((y - 0.5) ** 2 + (x - 0.5) ** 2) * np.pi)
    return _rolled(_mix(share.astype(np.float32), _colour(rng), _colour(rng)), rng)


def _many_polygons(rng: np.random.Generator, size: tuple[int, int]) -> list[Picture]:
    height, width = size
    page = Image.new("RGB", (width, height), tuple(int(level) for level in _colour(rng)))
    draw = ImageDraw.Draw(page)
    for _ in range(int(rng.integers(10, 40))):
        corners = rng.uniform(0, 1, size=2) + rng.uniform(-0.2, 0.2, size=(int(rng.integers(3, 8)), 2))
        points = [(float(x) * width, float(y) * height) for x, y in corners]
        draw.polygon(points, fill=tuple(int(level) for level in _colour(rng)))
    return _rolled(np.asarray(page, dtype=np.float32), rng)


def _scribble(rng: np.random.Generator, size: tuple[int, int]) -> list[Picture]:
    height, width = size
    page = Image.new("RGB", (width, height), (250, 250, 250))
    points = np.cumsum(rng.normal(0, 0.08, size=(80, 2)), axis=0) % 1.0
    line = [(float(x) * width, float(y) * height) for x, y in points]
    ImageDraw.Draw(page).line(line, fill=(20, 20, 60), width=2)
    return _rolled(np.asarray(page, dtype=np.float32), rng)


def _landscape(rng: np.random.Generator, size: tuple[int, int]) -> list[Picture]:
    """Return a bright sky over textured ground with a few blurred objects."""
    (y, _), horizon = _grid(size), rng.uniform(0.3, 0.6)
    sky = _mix(y / horizon, np.array([90, 140, 220], np.float32), np.array([210, 220, 230], np.float32))
    ground = _colour(rng) * np.float32(0.6) * (0.4 + 0.8 * _octaves(rng, size, 1))
    picture = np.where(y[..., None] < horizon, sky, ground)
    thing = _octaves(rng, size, 1) > 0.62
    return _rolled(np.where(thing, _colour(rng) * np.float32(0.5) + 0.3 * picture, picture).astype(np.float32), rng)


PICTURES: dict[str, Callable[[np.random.Generator, tuple[int, int]], list[Picture]]] = {
    "noise": _noise,
    "clouds": _clouds,
    "gradient": _gradient,
    "radial gradient": _radial_gradient,
    "plain": _plain,
    "fade": _fade,
    "text": _text,
    "title": _title,
    "colour bars": _colour_bars,
    "checkerboard": _checkerboard,
    "stripes": _stripes,
    "zone plate": _zone_plate,
    "polygons": _many_polygons,
    "scribble": _scribble,
    "landscape": _landscape,
}
"""Kinds of picture: name -> function that returns float32 frames [H, W, C] from 0 to 255."""


def _seconds(num_samples: int) -> NDArray[np.float64]:
    return np.arange(num_samples) / SAMPLING_RATE


def _envelopes(rng: np.random.Generator, num_samples: int, rate: float, decay: float) -> NDArray[np.float64]:
    """Return an envelope of events at random times, about ``rate`` per second, that decay in ``decay`` seconds."""
    starts = np.cumsum(rng.exponential(1 / rate, size=200)) * SAMPLING_RATE
    envelope = np.zeros(num_samples)
    for start in starts[starts < num_samples].astype(int):
        length = num_samples - start
        envelope[start:] = np.maximum(envelope[start:], np.exp(-np.arange(length) / (decay * SAMPLING_RATE)))
    return envelope


def _noise_bursts(rng: np.random.Generator, num_samples: int) -> NDArray[np.float64]:
    return rng.standard_normal(num_samples) * _envelopes(rng, num_samples, rng.uniform(1, 4), rng.uniform(0.03, 0.2))


def _coloured_noise(rng: np.random.Generator, num_samples: int) -> NDArray[np.float64]:
    """Return noise whose amplitude falls with the frequency (pink to brown)."""
    spectrum = np.fft.rfft(rng.standard_normal(num_samples))
    spectrum /= np.maximum(np.arange(len(spectrum)), 20) ** rng.uniform(0.5, 1.2)
    noise: NDArray[np.float64] = np.fft.irfft(spectrum, num_samples)
    return noise


def _speech(rng: np.random.Generator, num_samples: int) -> NDArray[np.float64]:
    """Return a pulse train with a moving pitch, filtered by three moving formants, in syllables."""
    seconds = _seconds(num_samples)
    pitch = rng.uniform(90, 240) * (1 + 0.15 * np.sin(2 * np.pi * rng.uniform(0.3, 1) * seconds))
    phase = 2 * np.pi * np.cumsum(pitch) / SAMPLING_RATE
    syllables = np.clip(np.sin(2 * np.pi * rng.uniform(2, 4) * seconds) + rng.uniform(0, 0.4), 0, 1)
    total = np.zeros(num_samples)
    for centre, width in ((500.0, 120.0), (1500.0, 180.0), (2500.0, 250.0)):
        formant = centre * (1 + 0.3 * np.sin(2 * np.pi * rng.uniform(1, 4) * seconds + rng.uniform(0, 6)))
        for harmonic in range(1, 30):
            frequency = harmonic * pitch
            total += np.exp(-(((frequency - formant) / width) ** 2) / 2) * np.sin(harmonic * phase)
    return (total + 0.05 * rng.standard_normal(num_samples)) * syllables


def _chords(rng: np.random.Generator, num_samples: int) -> NDArray[np.float64]:
    """Return chords of three notes with overtones, two per second, each decaying."""
    total, length = np.zeros(num_samples), SAMPLING_RATE // 2
    for start in range(0, num_samples, length):
        seconds = _seconds(min(length, num_samples - start))
        root = 220 * 2 ** (rng.integers(-5, 12) / 12)
        for interval in (0, int(rng.integers(3, 5)), 7):
            for overtone in range(1, 6):
                frequency = root * 2 ** (interval / 12) * overtone
                tone = np.sin(2 * np.pi * frequency * seconds + rng.uniform(0, 6)) / overtone
                total[start : start + len(seconds)] += tone * np.exp(-3 * seconds)
    return total


def _melody(rng: np.random.Generator, num_samples: int) -> NDArray[np.float64]:
    total, start = np.zeros(num_samples), 0
    while start < num_samples:
        seconds = _seconds(min(int(rng.uniform(0.1, 0.5) * SAMPLING_RATE), num_samples - start))
        frequency = 440 * 2 ** (rng.integers(-12, 13) / 12)
        tone = np.sin(2 * np.pi * frequency * seconds) + 0.4 * np.sin(6 * np.pi * frequency * seconds)
        total[start : start + len(seconds)] = tone * np.minimum(1, 50 * seconds) * np.exp(-2 * seconds)
        start += len(seconds)
    return total


def _sweep(rng: np.random.Generator, num_samples: int) -> NDArray[np.float64]:
    low, high = rng.uniform(50, 400), rng.uniform(2000, 7000)
    seconds = _seconds(num_samples) * rng.uniform(0.5, 2) % 1.0
    frequency = low * (high / low) ** seconds
    sweep: NDArray[np.float64] = np.sin(2 * np.pi * np.cumsum(frequency) / SAMPLING_RATE)
    return sweep


def _clicks(rng: np.random.Generator, num_samples: int) -> NDArray[np.float64]:
    return rng.standard_normal(num_samples) * _envelopes(rng, num_samples, rng.uniform(3, 12), 0.002)


def _bells(rng: np.random.Generator, num_samples: int) -> NDArray[np.float64]:
    seconds, root = _seconds(num_samples), rng.uniform(300, 900)
    tones = sum(np.sin(2 * np.pi * root * ratio * seconds) / ratio for ratio in (1, 2.76, 5.4, 8.93))
    bells: NDArray[np.float64] = tones * _envelopes(rng, num_samples, 1.5, 0.3)
    return bells


def _drums(rng: np.random.Generator, num_samples: int) -> NDArray[np.float64]:
    seconds = _seconds(num_samples)
    low = np.sin(2 * np.pi * rng.uniform(50, 90) * seconds) * _envelopes(rng, num_samples, 2, 0.1)
    return low + 0.4 * rng.standard_normal(num_samples) * _envelopes(rng, num_samples, 3, 0.04)


SOUNDS: dict[str, Callable[[np.random.Generator, int], NDArray[np.float64]]] = {
    "noise bursts": _noise_bursts,
    "coloured noise": _coloured_noise,
    "speech": _speech,
    "chords": _chords,
    "melody": _melody,
    "sweep": _sweep,
    "clicks": _clicks,
    "bells": _bells,
    "drums": _drums,
}
"""Kinds of sound: name -> function that returns ``num_samples`` samples at 16 kHz, of any scale."""


def sample_picture(rng: np.random.Generator, kind: str) -> Frames:
    """Return the frames of a clip, uint8 [T, H, W, 3], RGB, in one of several sizes. ``kind`` is a key of PICTURES."""
    size = SIZES[int(rng.integers(len(SIZES)))]
    frames: Frames = np.clip(np.stack(PICTURES[kind](rng, size)) + 0.5, 0, 255).astype(np.uint8)
    return frames


def sample_other_sound(rng: np.random.Generator, kind: str, seconds: float = SECONDS) -> Samples:
    """Return a sound, float32 [seconds * 16000] in [-1, 1]. ``kind`` is a key of SOUNDS."""
    samples = SOUNDS[kind](rng, round(seconds * SAMPLING_RATE))
    peak = max(float(np.abs(samples).max()), 1e-6)
    scaled: Samples = (samples * log_uniform(rng, (0.05, 0.8)) / peak).astype(np.float32)
    return scaled


def write_other_clip(rng: np.random.Generator, path: Path, picture: str, sound: str | None) -> None:
    """Write a clip as mp4, without an audio stream if ``sound`` is None. Raises OSError if it cannot be written."""
    samples = None if sound is None else sample_other_sound(rng, sound)
    frames = sample_picture(rng, picture)
    write_mp4(path, frames, frames_per_second=FRAMES_PER_SECOND, samples=samples, sampling_rate=SAMPLING_RATE)


def write_other_sound(rng: np.random.Generator, path: Path, kind: str) -> None:
    """Write a sound of a kind as WAV."""
    write_sound(sample_other_sound(rng, kind), path)


def write_sound(samples: Samples, path: Path) -> None:
    """Write samples in [-1, 1] at 16 kHz as a 16-bit mono WAV file."""
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(SAMPLING_RATE)
        file.writeframes((samples * 32767).astype("<i2").tobytes())
