"""A file in, frames and sound clips out, or the reason why one of them is not there.

Three things are kept apart: a file without a sound track is used without it, and says so; a track that cannot be read
is an error; ``no_audio`` is the caller's choice.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from video_llama.errors import MediaError, NoAudioTrackError
from video_llama.processors import AudioClips, FrameSampling, SampledVideo, open_track, read_image, read_video
from video_llama.processors.audio_decode import without_audio
from video_llama.processors.images import is_image
from video_llama.processors.settings import ProcessorSettings
from video_llama.processors.sources import FrameListSource, Source, as_media, has_video_stream, is_folder

MediaKind = Literal["video", "image", "frames", "audio"]
MediaSource = Source | FrameListSource

NO_TRACK = "no audio track"
NOT_ASKED = "not asked for"
NO_PICTURE = "no video track"
NO_BRANCH = "the model has no audio branch"


@dataclass(frozen=True)
class MediaOptions:
    """How media are read. ``frames`` None takes the model's own number, uniformly over the whole.

    ``no_audio`` leaves sound out; ``require_audio`` makes its absence an error. Both together are a ValueError.
    """

    frames: FrameSampling | None = None
    no_audio: bool = False
    require_audio: bool = False

    def __post_init__(self) -> None:
        if self.no_audio and self.require_audio:
            raise ValueError("Both no_audio and require_audio are given. Give one of them.")


@dataclass(frozen=True)
class ReadMedium:
    """One medium as it was read: frames, sound or both; of what is not there, why."""

    kind: MediaKind
    source: str
    frames: SampledVideo | None = None
    sound: AudioClips | None = None
    why_no_frames: str | None = None
    why_no_sound: str | None = None


def media_kind(source: MediaSource) -> MediaKind:
    """What a source is, by its content. Raises MediaError where it is nothing that can be seen or heard."""
    if isinstance(source, (list, tuple)) or is_folder(source):
        return "frames"
    media = as_media(source)  # type: ignore[arg-type]  # the lists are gone
    if is_image(media):
        return "image"
    with media.open() as container:
        has_video = has_video_stream(container)
        has_audio = bool(container.streams.audio)
    if not has_video and not has_audio:
        raise MediaError(f"{media.name} has neither a video nor an audio stream. Give a video, an image or a sound.")
    return "video" if has_video else "audio"


def read_medium(
    source: MediaSource,
    settings: ProcessorSettings,
    options: MediaOptions,
    *,
    max_frames: int,
    can_hear: bool,
    kind: MediaKind | None = None,
) -> ReadMedium:
    """Read a medium as the model needs it; ``kind`` None finds out what it is.

    ``max_frames`` is what the model has positions for, ``can_hear`` whether it has an audio branch. Raises MediaError
    (NoAudioTrackError for ``require_audio`` without a track), and ValueError for a sampling that cannot be.
    """
    kind = kind or media_kind(source)
    size = (settings.image_size, settings.image_size)
    sampling = options.frames or FrameSampling(num_frames=settings.num_frames)
    if kind == "audio":
        return _read_audio(source, settings, options, sampling, can_hear)
    if kind == "image":
        video = read_image(source, size=size)  # type: ignore[arg-type]  # a list is no image, which it says
    else:
        video = read_video(source, size=size, sampling=sampling, max_frames=max_frames)
    medium = ReadMedium(video.kind, video.source, frames=video)
    if options.no_audio:
        return replace(medium, why_no_sound=NOT_ASKED)
    if not can_hear and not options.require_audio:
        return replace(medium, why_no_sound=NO_BRANCH)
    _require_ears(video.source, can_hear)
    return _with_sound(medium, source, settings, options, sampling)


def _read_audio(
    source: MediaSource, settings: ProcessorSettings, options: MediaOptions, sampling: FrameSampling, can_hear: bool
) -> ReadMedium:
    media = as_media(source)  # type: ignore[arg-type]  # a list is no sound, which it says
    if options.no_audio:
        raise MediaError(f"{media.name} is given as sound, and no_audio leaves sound out. Drop one of the two.")
    _require_ears(media.name, can_hear)
    sound = _read_sound(source, settings, sampling)
    return ReadMedium("audio", media.name, sound=sound, why_no_frames=NO_PICTURE)


def _require_ears(name: str, can_hear: bool) -> None:
    if not can_hear:
        raise MediaError(f"The sound of {name} is asked for, and the model has no audio branch. Use one that has.")


def _with_sound(
    medium: ReadMedium,
    source: MediaSource,
    settings: ProcessorSettings,
    options: MediaOptions,
    sampling: FrameSampling,
) -> ReadMedium:
    """The medium with its sound, or with the reason why it has none."""
    try:
        if medium.kind != "video":
            raise NoAudioTrackError(
                f"{medium.source} holds pictures without sound. Give a video with sound, or do not require audio."
            )
        return replace(medium, sound=_read_sound(source, settings, sampling))
    except NoAudioTrackError:
        if options.require_audio:
            raise
        return replace(medium, why_no_sound=NO_TRACK)


def _read_sound(source: MediaSource, settings: ProcessorSettings, sampling: FrameSampling) -> AudioClips:
    """The clips of the part of the track that ``sampling`` looks at; their times count from the start of the track."""
    track = open_track(source)  # type: ignore[arg-type]  # lists have been refused
    duration = track.num_samples / track.rate
    start, end = sampling.start or 0.0, duration if sampling.end is None else min(sampling.end, duration)
    if start >= duration:
        remedy = without_audio("Choose a start before its end", track.has_video)
        raise MediaError(f"{track.name}: start is {start:g} s and its sound lasts {duration:.2f} s. {remedy}")
    first, last = round(start * track.rate), round(end * track.rate)
    is_whole = (first, last) == (0, track.num_samples)
    heard = track.name if is_whole else f"{track.name} from {start:g} s to {end:g} s"
    clips = settings.audio_processor().hear(track.span(first, last, heard))
    return replace(clips, source=track.name, start_seconds=[start + second for second in clips.start_seconds])
