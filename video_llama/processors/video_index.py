"""List the frames of a video file and their presentation times, without decoding if the container allows it.

In: an open container. Out: a ``FrameIndex`` with presentation timestamps in display order.
mp4 and mov list their samples in tables; other files are demuxed once (packets are read, not decoded); files without
timestamps, or with frames that are never shown, are decoded once.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from fractions import Fraction

import av
import numpy as np
from av import VideoStream
from av.container import InputContainer
from av.stream import Discard, Disposition

from video_llama.errors import MediaError
from video_llama.log import logger
from video_llama.processors.media_file import MediaFile
from video_llama.processors.mp4_table import composition_offsets

FALLBACK_FPS = 25.0  # for a stream of one frame without a rate: its time is 0 at any rate
# A warning is logged if the header's duration exceeds the actual one by this factor and by this many seconds.
SHORT_FACTOR, SHORT_SECONDS = 1.5, 1.0


@dataclass(frozen=True)
class FrameIndex:
    """The frames of one stream.

    ``pts``: int64, ascending, in units of ``time_base``. ``keyframes``: pts of the frames at which decoding can start.
    ``is_timed`` is False if the packets have no pts: then ``pts`` counts frames, and seeking is impossible.
    ``is_table`` is True if the index was made from the container's table, without reading packets.
    """

    pts: np.ndarray
    keyframes: np.ndarray
    time_base: Fraction
    fps: float
    is_timed: bool = True
    is_table: bool = False

    @property
    def seconds(self) -> np.ndarray:
        """Presentation times in seconds, float64 [N], the first frame at 0.0."""
        times: np.ndarray = (self.pts - self.pts[0]) * float(self.time_base)
        return times

    @property
    def duration(self) -> float:
        """Seconds from the first frame to the end of the last one, which lasts one average frame."""
        return float(self.seconds[-1]) + 1.0 / self.fps


def video_stream(container: InputContainer, name: str) -> VideoStream:
    """Return the main video stream and discard all others; a cover picture does not count. Raises MediaError."""
    streams = [stream for stream in container.streams.video if not stream.disposition & Disposition.attached_pic]
    if not streams:
        has_sound = bool(container.streams.audio)
        remedy = "It has only sound: give it as audio." if has_sound else "Give a video file or an image."
        raise MediaError(f"{name} has no video stream. {remedy}")
    best = container.streams.best("video")
    chosen = [candidate for candidate in streams if best is not None and candidate.index == best.index]
    stream = (chosen or streams)[0]
    for other in container.streams:
        if other.index != stream.index:
            other.discard = Discard.all
    return stream


def average_fps(stream: VideoStream) -> float | None:
    """Return the container's average frame rate (as decord does), else FFmpeg's guess, else None."""
    rate = stream.average_rate or stream.guessed_rate
    return float(rate) if rate else None


def build_index(container: InputContainer, stream: VideoStream, media: MediaFile) -> FrameIndex:
    """Index the stream, from the container's tables if they are reliable. Raises MediaError if it has no frame."""
    index = _index_from_table(container, stream, media) or _index_from_packets(container, stream, media.name)
    _warn_if_short(container, index, media.name)
    return index


def _index_from_table(container: InputContainer, stream: VideoStream, media: MediaFile) -> FrameIndex | None:
    """Return the index from the tables of an mp4 or mov: presentation time = decoding time + offset."""
    entries = getattr(stream, "index_entries", None)  # PyAV 18
    fps = average_fps(stream)
    if entries is None or fps is None or "mp4" not in container.format.name or stream.start_time is None:
        return None
    count = len(entries)
    if count < 2 or count != stream.frames or stream.time_base is None:
        return None  # fragmented, or an edit list added or removed samples
    table = list(entries)
    if any(entry.is_discard for entry in table):
        return None
    offsets = composition_offsets(media.stream(), stream.id, count)
    if offsets is None:
        return None
    shown = np.fromiter((entry.timestamp for entry in table), np.int64, count) + offsets
    shown += stream.start_time - shown.min()
    pts = np.sort(shown)
    if np.any(np.diff(pts) <= 0):
        return None
    is_keyframe = np.fromiter((entry.is_keyframe for entry in table), np.bool_, count)
    return FrameIndex(pts, np.sort(shown[is_keyframe]), stream.time_base, fps, is_table=True)


def _index_from_packets(container: InputContainer, stream: VideoStream, name: str) -> FrameIndex:
    times: list[int | None] = []
    keyframes: list[int] = []
    try:
        for packet in container.demux(stream):
            if packet.size == 0 or packet.is_discard:  # the end of the stream; or removed by an edit list
                continue
            times.append(packet.pts)
            if packet.is_keyframe and packet.pts is not None:
                keyframes.append(packet.pts)
    except av.error.FFmpegError as error:
        logger.warning("%s: reading stopped after %d frames (%s); using those.", name, len(times), error.strerror)
    if not times:
        raise MediaError(f"{name} has a video stream without frames. It may be truncated: copy it again.")
    pts = [time for time in times if time is not None]
    if len(pts) < len(times) or len(set(pts)) < len(pts):
        return _counted_index(len(times), average_fps(stream) or FALLBACK_FPS)
    return _timed_index(pts, keyframes, stream)


def _timed_index(pts: list[int], keyframes: list[int], stream: VideoStream) -> FrameIndex:
    """Make an index of timestamps in any order; without a rate in the container, the rate is measured."""
    ordered = np.sort(np.asarray(pts, dtype=np.int64))
    time_base = stream.time_base or Fraction(1, 1000)
    fps = average_fps(stream)
    if fps is None:
        span = float((ordered[-1] - ordered[0]) * time_base)
        fps = (len(ordered) - 1) / span if span > 0 else FALLBACK_FPS
    return FrameIndex(ordered, np.sort(np.asarray(keyframes, dtype=np.int64)), time_base, fps)


def index_of_shown(shown: list[int | None], index: FrameIndex) -> FrameIndex:
    """Return ``index`` with the frames that decoding actually produced (their pts, in display order)."""
    pts = [time for time in shown if time is not None]
    if len(pts) < len(shown) or len(set(pts)) < len(pts):
        return _counted_index(len(shown), index.fps)
    return replace(index, pts=np.sort(np.asarray(pts, dtype=np.int64)), is_timed=True, is_table=False)


def _counted_index(count: int, fps: float) -> FrameIndex:
    counted = np.arange(count, dtype=np.int64)
    return FrameIndex(counted, counted[:1], 1 / Fraction(fps), fps, is_timed=False)


def _warn_if_short(container: InputContainer, index: FrameIndex, name: str) -> None:
    promised = (container.duration or 0) / 1_000_000
    if promised > SHORT_FACTOR * index.duration + SHORT_SECONDS:
        logger.warning("%s: the header gives %.1f s, but the file has %.1f s of video.", name, promised, index.duration)
