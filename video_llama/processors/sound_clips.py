"""Cut a sound track into the clips that the audio branch reads, at the model's sampling rate.

In: a ``SoundTrack``. Out: ``SoundClips`` with float32 waveforms [S, samples]; ``AudioProcessor`` computes their mels.
Source: the clip times of pytorchvideo 0.1.5, as used by ImageBind's ``load_and_transform_audio_data``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from video_llama.errors import MediaError
from video_llama.processors.audio_decode import SoundTrack
from video_llama.processors.audio_stream import without_audio
from video_llama.processors.resample import Resampler
from video_llama.processors.settings import ProcessorSettings

WHOLE_TRACK, CLIPS_ONLY = "whole track", "clips"
WINDOW_SECONDS = 0.025
"""Length of an analysis window of the mel filter bank; a shorter track has no mel frame."""


@dataclass(frozen=True)
class SoundClips:
    """Clips of a track: ``samples`` float32 [S, samples], mean subtracted, at ``sampling_rate`` Hz.

    Clip k spans ``clip_seconds`` from ``start_seconds[k]``; ``duration`` is that of the whole track, in seconds.
    """

    samples: np.ndarray
    start_seconds: list[float]
    clip_seconds: float
    duration: float
    sampling_rate: int
    source: str
    decoded: str = WHOLE_TRACK
    """What was decoded, and so checked for damage: WHOLE_TRACK, or CLIPS_ONLY of a long track."""


def window_samples(rate: int) -> int:
    """Return the length of an analysis window in samples (400 at 16 kHz)."""
    return int(rate * WINDOW_SECONDS)


def cut_clips(track: SoundTrack, settings: ProcessorSettings) -> SoundClips:
    """Cut ``settings.num_clips`` clips out of channel 0 of a track and subtract each clip's mean.

    The mean is over all channels, as in the reference, which subtracts it in place; here from a copy. Raises MediaError
    for a track that is shorter than one window (25 ms).
    """
    rate = settings.sampling_rate
    resampler = Resampler(track.rate, rate)
    num_samples, minimum = resampler.num_outputs(track.num_samples), window_samples(rate)
    if num_samples < minimum or not track.num_channels:
        raise MediaError(
            f"{track.name} has {num_samples} audio samples at {rate} Hz; at least {minimum} (25 ms) are required. "
            + without_audio("Give a longer sound", track.has_video)
        )
    duration = num_samples / rate
    starts = clip_starts(duration, settings)
    ranges = [sample_range(start, settings) for start in starts]
    clips = _resampled(track, resampler, [(first, min(last, num_samples)) for first, last in ranges])
    centred = np.stack([clip[0] - clip.mean(dtype=np.float64).astype(np.float32) for clip in clips])
    seconds = [float(start) for start in starts]
    decoded = WHOLE_TRACK if track.index is None else CLIPS_ONLY
    return SoundClips(centred, seconds, settings.clip_seconds, duration, rate, track.name, decoded)


def clip_starts(duration: float, settings: ProcessorSettings) -> list[Fraction]:
    """Return the start of each clip, in exact seconds, for a track of ``duration`` seconds.

    Clip k of n starts at k * (duration - clip_seconds) / n, so the end of the track is never reached; a track that is
    shorter than a clip gives n equal clips.
    """
    step = Fraction(max(duration - settings.clip_seconds, 0)) / settings.num_clips
    return [step * clip for clip in range(settings.num_clips)]


def sample_range(start: Fraction, settings: ProcessorSettings) -> tuple[int, int]:
    """Return (first, last + 1) of the samples of a clip; the track may end before."""
    end = start + Fraction(settings.clip_seconds)
    return int(start * settings.sampling_rate), int(end * settings.sampling_rate)


def _resampled(track: SoundTrack, resampler: Resampler, spans: Sequence[tuple[int, int]]) -> list[np.ndarray]:
    """Return float32 [channels, samples] of each of the ``spans`` (first, last + 1), in order, after resampling.

    Overlapping spans are resampled together.
    """
    merged = [spans[0]]
    for first, last in spans[1:]:
        if first <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(last, merged[-1][1]))
        else:
            merged.append((first, last))
    parts = track.cut([resampler.inputs_of(*span) for span in merged])
    resampled = [(span, resampler(part, *span)) for span, part in zip(merged, parts, strict=True)]
    # Copied, so that the order of summation in a clip does not depend on its neighbours in memory.
    return [
        np.ascontiguousarray(part[:, first - start : last - start])
        for first, last in spans
        for (start, end), part in resampled
        if start <= first and last <= end
    ]
