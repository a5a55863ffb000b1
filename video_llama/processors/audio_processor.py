"""Sound becomes the log-mel clips that ImageBind hears.

In: a file with sound, or a waveform. Out: ``AudioClips`` with float32 [S, 1, mel bins, frames], normalised.
Source: ImageBind's ``load_and_transform_audio_data`` and pytorchvideo 0.1.5's clip times.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction

import numpy as np

from video_llama.errors import MediaError
from video_llama.processors.audio_decode import SoundTrack, open_track, read_waveform, without_audio
from video_llama.processors.fbank import log_mel_filter_bank, window_samples
from video_llama.processors.resample import Resampler
from video_llama.processors.sources import Source

__all__ = ["AudioClips", "AudioProcessor", "SoundTrack", "open_track", "read_waveform"]


@dataclass(frozen=True)
class AudioClips:
    """``mel`` float32 [S, 1, num_mel_bins, target_length], normalised; clip k spans ``clip_seconds`` from
    ``start_seconds[k]``. ``duration`` of the whole track in seconds, ``sampling_rate`` in Hz after resampling."""

    mel: np.ndarray
    start_seconds: list[float]
    clip_seconds: float
    duration: float
    sampling_rate: int
    source: str


class AudioProcessor:
    """Cuts a track into clips and turns each into a normalised log-mel picture.

    Clip k of n starts at k * (duration - clip_seconds) / n (so the tail is never heard; a short track gives n equal
    clips). Channel 0 is heard. Each clip is padded with zeros, or cut, to ``target_length`` frames *before*
    (x - mean) / std.
    """

    def __init__(
        self,
        sampling_rate: int = 16000,
        num_mel_bins: int = 128,
        target_length: int = 204,
        clip_seconds: float = 2.0,
        num_clips: int = 8,
        mean: float = -4.268,
        std: float = 9.138,
    ) -> None:
        if min(sampling_rate, num_mel_bins, target_length, num_clips) < 1 or clip_seconds <= 0 or std <= 0:
            raise ValueError("Sizes, counts, clip_seconds and std must be positive. Check the processor's settings.")
        self.sampling_rate = sampling_rate
        self.num_mel_bins = num_mel_bins
        self.target_length = target_length
        self.clip_seconds = clip_seconds
        self.num_clips = num_clips
        self.mean = mean
        self.std = std

    def read(self, source: Source) -> AudioClips:
        """Read a file's track and process it; raises as ``open_track`` and ``__call__`` do."""
        return self.hear(open_track(source))

    def __call__(self, waveform: np.ndarray, rate: int, source: str = "") -> AudioClips:
        """Process float [channels, samples] at ``rate`` Hz.

        Raises ``MediaError`` for no samples, for NaN or infinite ones, and for less than one window (25 ms).
        """
        return replace(self.hear(_held(waveform, rate, source)), source=source)

    def hear(self, track: SoundTrack) -> AudioClips:
        """Process a track; raises ``MediaError`` for less than one window (25 ms)."""
        mels, starts, duration = self._log_mels(track)
        normalised = (mels - np.float32(self.mean)) / np.float32(self.std)
        clips, seconds = normalised[:, None], [float(start) for start in starts]
        return AudioClips(clips, seconds, self.clip_seconds, duration, self.sampling_rate, track.name)

    def log_mels(self, waveform: np.ndarray, rate: int, source: str = "") -> tuple[np.ndarray, list[Fraction], float]:
        """Return (log-mels [S, bins, target_length] padded but not normalised, clip starts, duration in seconds)."""
        return self._log_mels(_held(waveform, rate, source))

    def _log_mels(self, track: SoundTrack) -> tuple[np.ndarray, list[Fraction], float]:
        resampler = Resampler(track.rate, self.sampling_rate)
        num_samples, least = resampler.num_outputs(track.num_samples), window_samples(self.sampling_rate)
        if num_samples < least or not track.num_channels:
            raise MediaError(
                f"{track.name} has {num_samples} sound samples at {self.sampling_rate} Hz; at least {least} "
                f"(25 ms) are needed. {without_audio('Give a longer sound', track.has_video)}"
            )
        duration = num_samples / self.sampling_rate
        starts = self.clip_starts(duration)
        ranges = [self.sample_range(start) for start in starts]
        cut = _resampled(track, resampler, [(first, min(last, num_samples)) for first, last in ranges])
        # The mean is over all channels, as in the reference; there it is subtracted in place, here from a copy.
        centred = np.stack([clip[0] - clip.mean(dtype=np.float64).astype(np.float32) for clip in cut])
        log_mel = log_mel_filter_bank(centred, self.sampling_rate, self.num_mel_bins)
        frames = min(log_mel.shape[1], self.target_length)
        mels = np.zeros((len(starts), self.num_mel_bins, self.target_length), dtype=np.float32)
        mels[:, :, :frames] = log_mel[:, :frames].transpose(0, 2, 1)
        return mels, starts, duration

    def clip_starts(self, duration: float) -> list[Fraction]:
        """Return when each clip starts, in exact seconds, for a track of ``duration`` seconds."""
        step = Fraction(max(duration - self.clip_seconds, 0)) / self.num_clips
        return [step * clip for clip in range(self.num_clips)]

    @property
    def clip_fraction(self) -> Fraction:
        """Length of a clip in exact seconds."""
        return Fraction(self.clip_seconds)

    def sample_range(self, start: Fraction) -> tuple[int, int]:
        """Return (first, last + 1) of a clip's samples; the track may end before."""
        end = start + self.clip_fraction
        return int(start * self.sampling_rate), int(end * self.sampling_rate)


def _held(waveform: np.ndarray, rate: int, source: str) -> SoundTrack:
    if waveform.ndim != 2:
        raise ValueError(f"The waveform has shape {list(waveform.shape)}. Give [channels, samples].")
    return SoundTrack.of(waveform, rate, source or "The waveform")


def _resampled(track: SoundTrack, resampler: Resampler, spans: Sequence[tuple[int, int]]) -> list[np.ndarray]:
    """Return float32 [channels, samples] of each of the ``spans`` (first, last + 1), in order, after resampling.

    Spans that overlap are resampled together.
    """
    merged = [spans[0]]
    for first, last in spans[1:]:
        if first <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(last, merged[-1][1]))
        else:
            merged.append((first, last))
    parts = track.cut([resampler.inputs_of(*span) for span in merged])
    heard = [(span, resampler(part, *span)) for span, part in zip(merged, parts, strict=True)]
    # Copied, so that the order of a clip's sums does not depend on what lies beside it.
    return [
        np.ascontiguousarray(part[:, first - start : last - start])
        for first, last in spans
        for (start, end), part in heard
        if start <= first and last <= end
    ]
