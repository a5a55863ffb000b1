"""Audio compared with the reference: clip times, sample ranges and mels of audio.json and audio.safetensors.

Mels are compared in all frames except those that the reference's in-place mean modifies (``in_place_mean_effect``).
Rows of real files are skipped if the file is not available.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file

from benchmarks.conformance_row import Row, guarded
from video_llama.errors import NoAudioTrackError
from video_llama.processors.audio_decode import read_waveform
from video_llama.processors.audio_processor import AudioProcessor
from video_llama.processors.fbank import SHIFT_SECONDS
from video_llama.processors.settings import ProcessorSettings
from video_llama.processors.sound_clips import WINDOW_SECONDS, clip_starts, sample_range

MEL_LIMIT = 1e-3  # natural log units before normalisation; 1e-4 is typical
# Builds of FFmpeg's AAC decoder differ in the last of 16 bits, which is visible in quiet bins.
FILE_LIMIT = 1e-3  # after normalisation, as the input of the model
WAVEFORM_SCALE = {"waveform_int8": 128.0, "waveform_int16": 32768.0}

Tensors = dict[str, np.ndarray]
Case = dict[str, Any]


def rows(folder: Path, media_dir: Path | None = None) -> Iterator[Row]:
    """Yield a row for each item of audio.json. Media files are read from ``media_dir``."""
    golden = json.loads((folder / "audio.json").read_text(encoding="utf-8"))
    tensors = load_file(folder / "audio.safetensors")
    settings = golden["defaults"]
    if "clip_timepoints_rule" in golden:
        yield from guarded("audio clip times", lambda: [_clip_rule_row(golden["clip_timepoints_rule"], settings)])
    for name, case in golden.get("synthetic", {}).items():
        yield from guarded(f"audio {name}", lambda name=name, case=case: _stored_rows(name, case, tensors, settings))
    for name, case in golden.get("videos", {}).items():
        path = media_dir / name if media_dir else None
        if path is None or not path.is_file():
            yield Row(f"audio {name}", None, note="the file is not in the media folder")
        else:
            yield from guarded(
                f"audio {name}", lambda name=name, case=case, path=path: _file_rows(name, case, path, tensors, settings)
            )


def _stored_rows(name: str, case: Case, tensors: Tensors, settings: Case) -> Iterator[Row]:
    waveform = _stored_waveform(name, tensors)
    return _case_rows(name, case, waveform, case["native_rate"], tensors, settings, is_file=False)


def _file_rows(name: str, case: Case, path: Path, tensors: Tensors, settings: Case) -> Iterator[Row]:
    if "error" in case:
        yield Row(f"audio {name}: no track", 0 if _has_no_track(path) else 1, note="NoAudioTrackError is due")
        return
    waveform, rate = read_waveform(path)
    wrong = (waveform.shape[0] != case["channels"]) + (waveform.shape[1] != case["native_samples"])
    yield Row(f"audio {name}: samples, channels, rate", wrong + (rate != case["native_rate"]))
    yield from _case_rows(name, case, waveform, rate, tensors, settings, is_file=True)


def processor_of(settings: Case, num_clips: int | None = None) -> AudioProcessor:
    """Build the processor described by golden's ``defaults``."""
    return AudioProcessor(
        ProcessorSettings(
            sampling_rate=settings["sample_rate"],
            num_mel_bins=settings["num_mel_bins"],
            target_length=settings["target_length"],
            clip_seconds=settings["clip_duration"],
            num_clips=num_clips or settings["clips_per_video"],
            audio_mean=settings["mean"],
            audio_std=settings["std"],
        )
    )


def _clip_rule_row(cases: list[Case], settings: Case) -> Row:
    wrong = 0
    for case in cases:
        processor = processor_of(settings, case["clips"])
        starts = clip_starts(case["duration"], processor.settings)
        clip = Fraction(processor.settings.clip_seconds)
        points = [[float(start), float(start + clip)] for start in starts]
        wrong += points != case["points"]
    return Row("audio clip times", wrong, note=f"{len(cases)} durations")


def _stored_waveform(name: str, tensors: Tensors) -> np.ndarray:
    for kind, scale in WAVEFORM_SCALE.items():
        if f"{name}.{kind}" in tensors:
            return tensors[f"{name}.{kind}"].astype(np.float32) / np.float32(scale)
    raise KeyError(f"audio.safetensors has no waveform of {name}.")


def _has_no_track(path: Path) -> bool:
    try:
        read_waveform(path)
    except NoAudioTrackError:
        return True
    return False


def _case_rows(
    name: str, case: Case, waveform: np.ndarray, rate: int, tensors: Tensors, settings: Case, is_file: bool
) -> Iterator[Row]:
    processor = processor_of(settings, case["n_clips"])
    clips = processor.cut(waveform, rate, name)
    mels, duration = processor.log_mels(clips), clips.duration
    starts = clip_starts(duration, processor.settings)
    yield Row(f"audio {name}: clips", _wrong_clips(processor, case, starts, duration, rate, waveform))
    clean = _clean_frames(case, mels.shape, processor.sampling_rate)
    before, after = _stored_errors(name, mels, clean, tensors, processor)
    normalised = processor(waveform, rate, name).mel[:, 0]
    scale = 1.0 / processor.settings.audio_std if is_file else 1.0
    note = f"in units after normalisation; {before:.1e} log units" if is_file else "log units"
    yield Row(f"audio {name}: mels", before * scale, FILE_LIMIT if is_file else MEL_LIMIT, note)
    if after is not None:
        yield Row(f"audio {name}: mels, normalised", after, MEL_LIMIT)
    shape = [1, mels.shape[0], 1, *mels.shape[1:]]
    yield Row(f"audio {name}: shape", int(shape != case["out_shape"]))
    spoilt = sum(int((~frames).sum()) for frames in clean)
    statistics = max(_statistics_error(case["mel_before_norm"], mels, clean), _bin_error(case, mels, clean))
    statistics = max(statistics, _statistics_error(case["mel_after_norm"], normalised, clean))
    yield Row(
        f"audio {name}: mel statistics", statistics, MEL_LIMIT, f"of clips without spoilt frames ({spoilt} spoilt)"
    )


def _wrong_clips(
    processor: AudioProcessor, case: Case, starts: list[Any], duration: float, rate: int, waveform: np.ndarray
) -> int:
    """Count the differing times, sample ranges, lengths and durations."""
    clip = Fraction(processor.settings.clip_seconds)
    num_samples = round(duration * processor.sampling_rate)
    ranges = [list(sample_range(start, processor.settings)) for start in starts]
    lengths = [max(0, min(last, num_samples) - first) for first, last in ranges]
    return sum(
        (
            [[str(start), str(start + clip)] for start in starts] != case["timepoints_fraction"],
            [[float(start), float(start + clip)] for start in starts] != case["timepoints"],
            ranges != case["sample_ranges"],
            lengths != case["clip_samples"],
            duration != case["duration_after_resample_s"],
            list(waveform.shape) != [case["channels"], case["native_samples"]],
            rate != case["native_rate"],
        )
    )


def _clean_frames(case: Case, shape: tuple[int, ...], rate: int) -> list[np.ndarray]:
    """Return, per clip, the frames that the reference's in-place mean did not modify (bool [frames]).

    Golden names the others for stored waveforms. For files they follow from the ranges: an earlier clip that ends
    inside this one leaves a step there, and a frame that contains the step differs.
    """
    frames = np.arange(shape[2])
    if "in_place_mean_effect" in case:
        named = case["in_place_mean_effect"]["frames_affected_per_clip"]
        return [~np.isin(frames, spoilt) for spoilt in named]
    window, shift = int(rate * WINDOW_SECONDS), int(rate * SHIFT_SECONDS)
    clean = []
    for clip, (first, _) in enumerate(case["sample_ranges"]):
        steps = [last - first for _, last in case["sample_ranges"][:clip]]
        holds = [(frames * shift < step) & (step < frames * shift + window) for step in steps]
        clean.append(~np.any(holds, axis=0) if holds else np.ones(shape[2], dtype=bool))
    return clean


def _stored_errors(
    name: str, mels: np.ndarray, clean: list[np.ndarray], tensors: Tensors, processor: AudioProcessor
) -> tuple[float, float | None]:
    """Return the largest difference from the stored mels, before and after normalisation."""
    before, after = 0.0, None
    for clip, mel in enumerate(mels):
        prefix = f"{name}.clip{clip}.mel"
        for key, stored in tensors.items():
            if key == f"{prefix}_before" or key.startswith(f"{prefix}_before_frames_mod"):
                step = int(key.rpartition("mod")[2]) if "mod" in key else 1
                kept = clean[clip][::step]
                before = max(before, float(np.abs(mel[:, ::step] - stored)[:, kept].max(initial=0.0)))
            elif key.startswith(f"{prefix}_after_mod"):
                step = int(key.rpartition("mod")[2])
                normalised = (mel[::step] - processor.settings.audio_mean) / processor.settings.audio_std
                after = max(after or 0.0, float(np.abs(normalised - stored)[:, clean[clip]].max(initial=0.0)))
    return before, after


def _statistics_error(expected: Case, mels: np.ndarray, clean: list[np.ndarray]) -> float:
    ours = {"mean": np.mean, "std": np.std, "min": np.min, "max": np.max}
    errors = [0.0]
    for clip, mel in enumerate(mels):
        if clean[clip].all():
            errors += [abs(float(of(mel.astype(np.float64))) - expected[key][clip]) for key, of in ours.items()]
    return max(errors)


def _bin_error(case: Case, mels: np.ndarray, clean: list[np.ndarray]) -> float:
    """Compare the mean over time of every 8th mel bin, clip by clip."""
    errors = [0.0]
    for clip, expected in enumerate(case["mel_mean_per_bin_mod8"]):
        if clean[clip].all():
            ours = mels[clip, ::8].astype(np.float64).mean(axis=1)
            errors.append(float(np.abs(ours - np.asarray(expected)).max()))
    return max(errors)
