"""Read the windows of a medium: it is opened and indexed once, and each window is decoded by seeking.

In: a media source and windows in the order of their starts. Out: a ``ReadMedium`` for each window, as ``read_medium``
returns for that segment. A video that cannot be read by seeking is decoded once from its start.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
from av import VideoFrame

from video_llama.errors import MediaError, NoAudioTrackError
from video_llama.processors.audio_decode import SoundTrack
from video_llama.processors.images import check_animation, frame_paths
from video_llama.processors.media_file import FrameListSource, MediaFile, MediaKind, MediaSource, is_folder
from video_llama.processors.medium import (
    NO_VIDEO_TRACK,
    MediaOptions,
    ReadMedium,
    read_medium,
    require_audio_branch,
    segment_clips,
    with_sound,
)
from video_llama.processors.sampling import FrameSampling
from video_llama.processors.scene_cuts import ScenePlan, scene_cuts
from video_llama.processors.settings import ProcessorSettings
from video_llama.processors.sound_clips import SoundClips
from video_llama.processors.video_decode import (
    OrderedRead,
    Pictures,
    Scaler,
    decode_by_seeking,
    decode_in_order,
    frames_in_order,
)
from video_llama.processors.video_index import FrameIndex, build_index, index_of_shown, video_stream
from video_llama.processors.video_processor import (
    FOLDER_FPS,
    SampledVideo,
    chosen_frames,
    index_after,
    is_complete,
    sampled_video,
)
from video_llama.processors.window_sound import open_window_track
from video_llama.processors.windows import Window, WindowPlan


class WindowReader:
    """A video, a sound or a folder of frames that is read in windows. Use it as a context manager.

    ``kind`` "audio" uses only the sound of a video; None determines the kind from the content.
    Raises MediaError for a source that cannot be used, and for an image; ValueError if ``options`` have frame times.
    """

    def __init__(
        self,
        source: MediaSource,
        settings: ProcessorSettings,
        options: MediaOptions,
        *,
        max_frames: int,
        with_audio_branch: bool,
        kind: MediaKind | None = None,
    ) -> None:
        self._settings, self._options = settings, options
        self._max_frames, self._with_audio_branch = max_frames, with_audio_branch
        self._sampling = options.frames or FrameSampling(settings.num_frames)
        if self._sampling.times is not None:
            raise ValueError("times cannot be combined with windows. Set a number of frames, or fps.")
        self._stack = ExitStack()
        try:
            self._open(source, kind)
        except BaseException:
            self._stack.close()
            raise

    def __enter__(self) -> WindowReader:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the medium."""
        self._stack.close()

    @property
    def bounds(self) -> tuple[float, float]:
        """Start and end of the part that is divided into windows, in seconds: that of ``options``, or everything.

        Raises MediaError if it starts after the end of the medium.
        """
        start, end = self._sampling.start or 0.0, self.duration
        if start >= end:
            raise MediaError(
                f"{self.name}: start is {start:g} s, but it lasts {end:.2f} s. Choose a start before its end."
            )
        return start, end if self._sampling.end is None else min(self._sampling.end, end)

    def _open(self, source: MediaSource, kind: MediaKind | None) -> None:
        self._frames: _WindowFrames | None = None
        self._track: SoundTrack | None = None
        self._no_track: NoAudioTrackError | None = None
        self._source = source
        if isinstance(source, (list, tuple)) or is_folder(source):
            paths: FrameListSource = source if isinstance(source, (list, tuple)) else frame_paths(Path(source))
            self.name = f"{len(paths)} frames" if isinstance(source, (list, tuple)) else str(source)
            self.duration = len(paths) / FOLDER_FPS
            return
        media = source if isinstance(source, MediaFile) else self._stack.enter_context(MediaFile(source))
        self._source, self._media, self.name = media, media, media.name
        kind = kind or media.kind
        if kind == "image" or media.kind == "image":
            raise MediaError(f"{media.name} is an image, and windows divide a video or a sound. Ask without windows.")
        if kind == "audio":
            if self._options.no_audio:
                raise MediaError(f"{media.name} is a sound file, but no_audio ignores sound. Remove one of the two.")
            require_audio_branch(media.name, self._with_audio_branch)
            self._track = open_window_track(media, self._stack)
            self.duration = self._track.num_samples / self._track.rate
            return
        if media.is_animation:
            video = self._read_alone(replace(self._sampling, start=None, end=None, num_frames=1, fps=None)).frames
            assert video is not None, "an animation has frames"
            self.duration = video.duration
            return
        size = (self._settings.image_size,) * 2
        self._frames = _WindowFrames(media, size, self._max_frames, self._stack)
        self.duration = self._frames.index.duration

    def plan(self, plan: WindowPlan | ScenePlan) -> list[Window]:
        """Return the windows that a plan divides the medium into.

        Scenes require a video file; all of its frames are decoded. Raises as :attr:`bounds` and ``WindowPlan``.
        """
        bounds = self.bounds
        if isinstance(plan, WindowPlan):
            return plan.windows(*bounds)
        if self._frames is None:
            raise MediaError(f"{self.name} is not a video file, which scenes require. Use windows of a fixed length.")
        return plan.windows(scene_cuts(self._media, self._frames.index, plan), *bounds)

    def read(self, windows: Sequence[Window]) -> Iterator[ReadMedium]:
        """Yield each window as it was read. ``windows`` are ordered by their starts; call this once.

        Raises MediaError as ``read_medium``, at the window that cannot be read.
        """
        samplings = [replace(self._sampling, start=window.start, end=window.end) for window in windows]
        if self._frames is not None:
            for sampling, video in zip(samplings, self._frames.read(samplings), strict=True):
                read_sound = partial(self._sound, sampling)
                yield with_sound(video, read_sound, self._options, self._with_audio_branch)
        elif self._track is not None:
            for sampling in samplings:
                yield ReadMedium("audio", self.name, sound=self._sound(sampling), why_no_frames=NO_VIDEO_TRACK)
        else:
            yield from map(self._read_alone, samplings)

    def _read_alone(self, sampling: FrameSampling) -> ReadMedium:
        return read_medium(
            self._source,
            self._settings,
            replace(self._options, frames=sampling),
            max_frames=self._max_frames,
            with_audio_branch=self._with_audio_branch,
        )

    def _sound(self, sampling: FrameSampling) -> SoundClips:
        if self._no_track is not None:
            raise self._no_track
        if self._track is None:
            try:
                self._track = open_window_track(self._media, self._stack)
            except NoAudioTrackError as error:
                self._no_track = error
                raise
        return segment_clips(self._track, self._settings, sampling)


class _WindowFrames:
    """The frames of a video file, in windows."""

    def __init__(self, media: MediaFile, size: tuple[int, int], max_frames: int, stack: ExitStack) -> None:
        self._media, self._max_frames, self._scaler = media, max_frames, Scaler(size)
        self._container = stack.enter_context(media.container())
        self._stream = video_stream(self._container, media)
        index = build_index(self._container, self._stream, media)
        if self._container.format.name in ("gif", "apng"):
            context = self._stream.codec_context
            check_animation(media.name, len(index.pts), context.width, context.height)
        self.index = replace(index, is_table=False)  # packets have been read by the time of the second window
        self._seconds = self.index.seconds

    def read(self, samplings: Sequence[FrameSampling]) -> Iterator[SampledVideo]:
        for number, sampling in enumerate(samplings):
            indices = self._choose(sampling)
            pictures = decode_by_seeking(self._container, self._stream, self.index, indices, self._scaler)
            if len(pictures) < len(indices):
                yield from self._in_order(samplings[number:])
                return
            yield sampled_video(self._media, self.index, indices, pictures)

    def _choose(self, sampling: FrameSampling) -> list[int]:
        return chosen_frames(self._media, self._seconds, self.index.duration, sampling, self._max_frames)

    def _in_order(self, samplings: Sequence[FrameSampling]) -> Iterator[SampledVideo]:
        """Decode the whole file to find the frames that are shown, then once more to yield the windows."""
        whole = decode_in_order(self._media, self.index, [], self._scaler)
        if whole.shown and is_complete(whole, self.index):
            self.index = index_of_shown(whole.shown, self.index)
            self._seconds = self.index.seconds
        plans = [self._choose(sampling) for sampling in samplings]
        for indices, pictures in zip(plans, self._pictures_in_order(plans), strict=True):
            if len(pictures) < len(indices):
                index_after(self._media, self.index, indices, replace(whole, pictures=pictures))
                raise MediaError(f"{self._media.name} cannot be decoded in windows. Convert it: ffmpeg -i FILE out.mp4")
            yield sampled_video(self._media, self.index, indices, pictures)

    def _pictures_in_order(self, plans: Sequence[list[int]]) -> Iterator[Pictures]:
        index = self.index
        numbers = sorted({i for indices in plans for i in indices})
        wanted = {int(index.pts[i]) if index.is_timed else i: i for i in numbers}
        # The first frame that this window or a later one needs.
        firsts = np.minimum.accumulate([indices[0] for indices in reversed(plans)])[::-1]
        kept: Pictures = {}
        frames = self._numbered_frames(index)
        for indices, first in zip(plans, firsts, strict=True):
            kept = {i: picture for i, picture in kept.items() if i >= first}
            while any(i not in kept for i in indices):
                numbered = next(frames, None)
                if numbered is None:
                    break
                key, frame = numbered
                if key in wanted:
                    kept.setdefault(wanted[key], self._scaler(frame))
            yield {i: kept[i] for i in indices if i in kept}

    def _numbered_frames(self, index: FrameIndex) -> Iterator[tuple[int | None, VideoFrame]]:
        with self._media.container() as container:
            stream = video_stream(container, self._media)
            for number, frame in enumerate(frames_in_order(container, stream, OrderedRead())):
                yield frame.pts if index.is_timed else number, frame
