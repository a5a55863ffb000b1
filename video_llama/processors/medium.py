"""Read one medium: a file in, sampled frames and sound clips out, or the reason why one of them is missing.

A file without a sound track is used without sound, as the result records; a track that cannot be read is an error;
``no_audio`` is the caller's choice.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypedDict

from video_llama.errors import MediaError, NoAudioTrackError
from video_llama.processors.audio_decode import SoundTrack, open_track
from video_llama.processors.media_file import MediaFile, MediaKind, MediaSource, is_folder, open_media
from video_llama.processors.sampling import FrameSampling
from video_llama.processors.settings import ProcessorSettings
from video_llama.processors.sound_clips import SoundClips, cut_clips
from video_llama.processors.video_processor import SampledVideo, read_image, read_video

NO_TRACK = "no audio track"
NOT_REQUESTED = "not asked for"
NO_VIDEO_TRACK = "no video track"
NO_BRANCH = "the model has no audio branch"


DELAY_SECONDS = 0.1
"""Without a segment, a smaller difference between the starts of picture and sound is ignored, as in the reference."""


@dataclass(frozen=True)
class MediaOptions:
    """How media are read. Raises ValueError if both ``no_audio`` and ``require_audio`` are set."""

    frames: FrameSampling | None = None
    """Which frames of a video are sampled. None takes the model's number of frames, uniformly over the whole video."""
    no_audio: bool = False
    """Ignore the sound."""
    require_audio: bool = False
    """Treat a missing sound track as an error."""

    def __post_init__(self) -> None:
        if self.no_audio and self.require_audio:
            raise ValueError("Both no_audio and require_audio are set. Use one of them.")


class MediaFields(TypedDict, total=False):
    """The fields of ``MediaOptions`` as keyword arguments."""

    frames: FrameSampling | None
    no_audio: bool
    require_audio: bool


@dataclass(frozen=True)
class ReadMedium:
    """A medium as it was read: frames, sound clips or both, and the reason for what is missing."""

    kind: MediaKind
    source: str
    frames: SampledVideo | None = None
    sound: SoundClips | None = None
    why_no_frames: str | None = None
    why_no_sound: str | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return what was read, for records: frame indices and times, clip times, reasons. For JSON."""
        return {
            "kind": self.kind,
            "source": self.source,
            "frames": None if self.frames is None else _frames_dict(self.frames),
            "sound": None if self.sound is None else _sound_dict(self.sound),
            "why_no_frames": self.why_no_frames,
            "why_no_sound": self.why_no_sound,
        }


def _frames_dict(video: SampledVideo) -> dict[str, Any]:
    return {
        "indices": [int(index) for index in video.indices],
        "seconds": [round(second, 3) for second in video.seconds],
        "fps": video.fps,
        "total_frames": video.total_frames,
        "duration": video.duration,
    }


def _sound_dict(sound: SoundClips) -> dict[str, Any]:
    return {
        "start_seconds": [round(second, 3) for second in sound.start_seconds],
        "clip_seconds": sound.clip_seconds,
        "duration": sound.duration,
        "sampling_rate": sound.sampling_rate,
        "decoded": sound.decoded,
    }


def media_kind(source: MediaSource) -> MediaKind:
    """Return the kind of a source, by its content. Raises MediaError if it is not a media file."""
    if isinstance(source, (list, tuple)) or is_folder(source):
        return "frames"
    with open_media(source) as media:
        return media.kind


def read_medium(
    source: MediaSource,
    settings: ProcessorSettings,
    options: MediaOptions,
    *,
    max_frames: int,
    with_audio_branch: bool,
    kind: MediaKind | None = None,
) -> ReadMedium:
    """Read a medium for a model.

    Args:
        max_frames: number of frame positions of the model.
        with_audio_branch: whether the model has an audio branch.
        kind: how to read the file; None determines it from the content.

    Raises:
        MediaError: a source that cannot be used; NoAudioTrackError for ``require_audio`` without a track.
        ValueError: invalid sampling options.
    """
    size = (settings.image_size, settings.image_size)
    sampling = options.frames or FrameSampling(num_frames=settings.num_frames)
    if isinstance(source, (list, tuple)) or is_folder(source):
        video = read_video(source, size=size, sampling=sampling, max_frames=max_frames)
        return with_sound(video, None, options, with_audio_branch)
    with open_media(source) as media:
        kind = kind or media.kind
        if kind == "audio":
            return _read_audio(media, settings, options, with_audio_branch)
        if kind == "image":
            video = read_image(media, size=size)
        else:
            video = read_video(media, size=size, sampling=sampling, max_frames=max_frames)
        has_sound = media.kind == "video" and not media.is_animation
        read = partial(_read_sound, media, settings, sampling)
        return with_sound(video, read if has_sound else None, options, with_audio_branch)


def _read_audio(
    media: MediaFile, settings: ProcessorSettings, options: MediaOptions, with_audio_branch: bool
) -> ReadMedium:
    if options.no_audio:
        raise MediaError(f"{media.name} is a sound file, but no_audio ignores sound. Remove one of the two.")
    require_audio_branch(media.name, with_audio_branch)
    sound = _read_sound(media, settings, options.frames or FrameSampling())
    return ReadMedium("audio", media.name, sound=sound, why_no_frames=NO_VIDEO_TRACK)


def require_audio_branch(name: str, with_audio_branch: bool) -> None:
    """Raise MediaError if the model has no audio branch."""
    if not with_audio_branch:
        raise MediaError(f"The sound of {name} was requested, but the model has no audio branch. Use a model with one.")


def with_sound(
    video: SampledVideo,
    read_sound: Callable[[], SoundClips] | None,
    options: MediaOptions,
    with_audio_branch: bool,
) -> ReadMedium:
    """Return the medium with its sound clips, or with the reason why it has none.

    ``read_sound`` is None for pictures. Raises NoAudioTrackError if a missing sound track is an error.
    """
    medium = ReadMedium(video.kind, video.source, frames=video)
    if options.no_audio:
        return replace(medium, why_no_sound=NOT_REQUESTED)
    if not with_audio_branch and not options.require_audio:
        return replace(medium, why_no_sound=NO_BRANCH)
    require_audio_branch(video.source, with_audio_branch)
    try:
        if read_sound is None:
            raise NoAudioTrackError(
                f"{medium.source} contains pictures without sound. Give a video with sound, or do not require audio."
            )
        return replace(medium, sound=read_sound())
    except NoAudioTrackError:
        if options.require_audio:
            raise
        return replace(medium, why_no_sound=NO_TRACK)


def _read_sound(media: MediaFile, settings: ProcessorSettings, sampling: FrameSampling) -> SoundClips:
    return segment_clips(open_track(media), settings, sampling)


def segment_clips(track: SoundTrack, settings: ProcessorSettings, sampling: FrameSampling) -> SoundClips:
    """Return the clips of the sampled segment of a track.

    With a picture, the segment and the times of the clips count from the first frame, else from the first sample.
    Where the segment has no sound, it is silent.
    """
    duration = track.num_samples / track.rate
    if sampling.start is None and sampling.end is None:
        return _shifted(cut_clips(track, settings), track.delay if abs(track.delay) >= DELAY_SECONDS else 0.0)
    start, sound_end = sampling.start or 0.0, duration + track.delay
    if start >= sound_end and not track.has_video:
        raise MediaError(
            f"{track.name}: start is {start:g} s, but its sound lasts {duration:.2f} s. Choose a start before its end."
        )
    end = sound_end if sampling.end is None else min(sampling.end, sound_end)
    if end <= start:  # the sound ends before the segment
        end = start + settings.clip_seconds
    first, last = round((start - track.delay) * track.rate), round((end - track.delay) * track.rate)
    clips = cut_clips(track.span(first, last, f"{track.name} from {start:g} s to {end:g} s"), settings)
    return _shifted(replace(clips, source=track.name), start)


def _shifted(clips: SoundClips, seconds: float) -> SoundClips:
    return replace(clips, start_seconds=[seconds + second for second in clips.start_seconds])
