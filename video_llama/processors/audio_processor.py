"""Compute the normalized log-mel clips that ImageBind's audio trunk reads.

In: a file with sound, a waveform, or ``SoundClips``. Out: ``AudioClips`` with float32 [S, 1, mel bins, time steps].
Source: ImageBind's ``load_and_transform_audio_data``.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from video_llama.processors.audio_decode import SoundTrack, open_track
from video_llama.processors.fbank import log_mel_filter_bank
from video_llama.processors.media_file import Source, open_media
from video_llama.processors.settings import ProcessorSettings
from video_llama.processors.sound_clips import SoundClips, cut_clips


@dataclass(frozen=True)
class AudioClips:
    """``mel`` float32 [S, 1, num_mel_bins, target_length], normalized; the other fields are those of ``SoundClips``."""

    mel: np.ndarray
    start_seconds: list[float]
    clip_seconds: float
    duration: float
    sampling_rate: int
    source: str


class AudioProcessor:
    """Cut a track into clips and compute a normalized log-mel spectrogram of each.

    Channel 0 is used. Each clip is padded with zeros, or cut, to ``target_length`` time steps *before* normalization,
    as in the reference.
    """

    def __init__(self, settings: ProcessorSettings = ProcessorSettings()) -> None:  # noqa: B008  (frozen)
        self.settings = settings

    @property
    def sampling_rate(self) -> int:
        """Sampling rate of the clips, in Hz."""
        return self.settings.sampling_rate

    def read(self, source: Source) -> AudioClips:
        """Read the sound track of a file and process it. Raises as ``open_track`` and ``cut_clips``."""
        with open_media(source) as media:
            return self.process(cut_clips(open_track(media), self.settings))

    def __call__(self, waveform: np.ndarray, rate: int, source: str = "") -> AudioClips:
        """Process a waveform, float [channels, samples] at ``rate`` Hz. Raises as ``cut``."""
        return self.process(self.cut(waveform, rate, source))

    def cut(self, waveform: np.ndarray, rate: int, source: str = "") -> SoundClips:
        """Resample a waveform, float [channels, samples] at ``rate`` Hz, and cut it into clips; ``source`` names it.

        Raises MediaError for a waveform that is empty, shorter than one window (25 ms), or has NaN or infinite values.
        """
        if waveform.ndim != 2:
            raise ValueError(f"The waveform has shape {list(waveform.shape)}. Give [channels, samples].")
        return replace(cut_clips(SoundTrack.of(waveform, rate, source or "The waveform"), self.settings), source=source)

    def process(self, clips: SoundClips) -> AudioClips:
        """Compute the normalized mels of clips at ``sampling_rate``."""
        mel = (self.log_mels(clips) - np.float32(self.settings.audio_mean)) / np.float32(self.settings.audio_std)
        return AudioClips(
            mel[:, None],
            clips.start_seconds,
            clips.clip_seconds,
            clips.duration,
            clips.sampling_rate,
            clips.source,
        )

    def log_mels(self, clips: SoundClips) -> np.ndarray:
        """Return the log-mels float32 [S, num_mel_bins, target_length], padded but not normalized."""
        settings = self.settings
        log_mel = log_mel_filter_bank(clips.samples, clips.sampling_rate, settings.num_mel_bins)
        num_steps = min(log_mel.shape[1], settings.target_length)
        mels = np.zeros((len(log_mel), settings.num_mel_bins, settings.target_length), dtype=np.float32)
        mels[:, :, :num_steps] = log_mel[:, :num_steps].transpose(0, 2, 1)
        return mels
