"""List the frames of a video file and their presentation times, without decoding if the container allows it.

In: an open container. Out: a ``FrameIndex`` with presentation timestamps in display order.
mp4 and mov list their samples in tables; other files are demuxed once (packets are read, not decoded); files without
timestamps, or with frames that are never shown, are decoded once.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction

import av
import numpy as np
from av import VideoStream
from av.container import InputContainer
from av.stream import Discard

from video_llama.errors import MediaError
from video_llama.log import logger
from video_llama.processors.media_file import JUMP_SECONDS, TS_DISCONT, MediaFile, main_video_stream
from video_llama.processors.mp4_table import codec_tag, composition_offsets

FALLBACK_FPS = 25.0  # for a stream of one frame without a rate: its time is 0 at any rate
NOT_CODED_BYTES = 8  # an MPEG-4 packet of this size or less holds no frame: it follows a packet with two frames
# A warning is logged if the header's duration exceeds the actual one by this factor and by this many seconds.
SHORT_FACTOR, SHORT_SECONDS = 1.5, 1.0


@dataclass(frozen=True)
class FrameIndex:
    """The frames of one stream.

    ``pts``: int64, ascending, in units of ``time_base``. ``keyframes``: pts of the frames at which decoding can start.
    ``is_timed`` is False if pts do not identify frames (they are missing, repeated, or their clock jumps): then frames
    are identified by their number in display order, and ``pts`` only gives their times. ``is_table`` is True if the
    index was made from the container's table, without reading packets. ``is_seekable`` is False if frames can only be
    decoded from the start of the file.
    """

    pts: np.ndarray
    keyframes: np.ndarray
    time_base: Fraction
    fps: float
    is_timed: bool = True
    is_table: bool = False
    is_seekable: bool = True

    @property
    def seconds(self) -> np.ndarray:
        """Presentation times in seconds, float64 [N], the first frame at 0.0."""
        times: np.ndarray = (self.pts - self.pts[0]) * float(self.time_base)
        return times

    @property
    def duration(self) -> float:
        """Seconds from the first frame to the end of the last one, which lasts one average frame."""
        return float(self.seconds[-1]) + 1.0 / self.fps


def video_stream(container: InputContainer, media: MediaFile) -> VideoStream:
    """Return the main video stream and discard all others; a cover picture does not count. Raises MediaError."""
    name = media.name
    stream = main_video_stream(container)
    if stream is None:
        has_sound = bool(container.streams.audio)
        remedy = "It has only sound: give it as audio." if has_sound else "Give a video file or an image."
        raise MediaError(f"{name} has no video stream. {remedy}")
    if getattr(stream, "codec_context", None) is None:
        tag = codec_tag(media.stream(), stream.id)
        raise MediaError(
            f"{name}: no decoder for {f'codec {tag}' if tag else 'the codec of its video stream'}, or the video is "
            "encrypted. Convert it with a program that plays it, for example to H.264 in an mp4."
        )
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
    index = _index_from_table(container, stream, media) or _index_from_packets(container, stream, media)
    _warn_if_short(container, index, media.name)
    # The palette of raw video is stored with the first packet only.
    return replace(index, is_seekable=stream.codec_context.pix_fmt != "pal8")


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


def _index_from_decoding(media: MediaFile) -> FrameIndex:
    """Count the frames by decoding: in a packed AVI a packet can contain two frames and the next one none."""
    count = 0
    with media.container() as container:
        stream = video_stream(container, media)
        stream.thread_type = "AUTO"
        for packet in container.demux(stream):
            count += len(stream.codec_context.decode(packet)) if packet.size else 0
        count += len(stream.codec_context.decode(None))
        fps = average_fps(stream) or FALLBACK_FPS
    if not count:
        raise MediaError(f"{media.name}: no frame of the video can be decoded. It may be damaged: copy it again.")
    return _counted_index(count, fps)


def _index_from_packets(container: InputContainer, stream: VideoStream, media: MediaFile) -> FrameIndex:
    name = media.name
    times: list[int | None] = []
    smallest = NOT_CODED_BYTES + 1
    decoding_times: list[int | None] = []
    keyframes: list[int] = []
    try:
        for packet in container.demux(stream):
            if packet.size == 0 or packet.is_discard:  # empty, or removed by an edit list
                continue
            smallest = min(smallest, packet.size)
            times.append(packet.pts)
            decoding_times.append(packet.dts)
            if packet.is_keyframe and packet.pts is not None:
                keyframes.append(packet.pts)
    except av.error.FFmpegError as error:
        logger.warning("%s: reading stopped after %d frames (%s); using those.", name, len(times), error.strerror)
    if not times:
        raise MediaError(f"{name} has a video stream without frames. It may be truncated: copy it again.")
    if container.format.name == "avi" and stream.codec_context.name == "mpeg4" and smallest <= NOT_CODED_BYTES:
        return _index_from_decoding(media)
    pts = [time for time in times if time is not None]
    if len(pts) < len(times) or len(set(pts)) < len(pts):
        return _counted_index(len(times), average_fps(stream) or FALLBACK_FPS)
    time_base = stream.time_base or Fraction(1, 1000)
    jumps = clock_jumps(decoding_times, time_base, may_jump_forward=_may_jump(container))
    if jumps:
        segments = _segments(pts, decoding_times, jumps, time_base)
        return _rebased_index(segments, time_base, average_fps(stream) or FALLBACK_FPS)
    return _timed_index(pts, keyframes, stream)


def _may_jump(container: InputContainer) -> bool:
    return bool(container.format.flags & TS_DISCONT)


def _segments(
    pts: Sequence[int], decoding_times: Sequence[int | None], jumps: Sequence[int], time_base: Fraction
) -> list[list[int]]:
    """Return the pts of each segment between jumps of the clock, in display order.

    Near a jump a packet can have the decoding time of one clock and the presentation time of the next one.
    """
    segments: list[list[int]] = [[] for _ in range(len(jumps) + 1)]
    limit = int(JUMP_SECONDS / float(time_base))
    for position, (shown, decoded) in enumerate(zip(pts, decoding_times, strict=True)):
        segment = bisect_right(jumps, position)
        is_ahead = decoded is not None and not 0 <= shown - decoded <= limit
        segments[min(segment + is_ahead, len(jumps))].append(shown)
    return [sorted(segment) for segment in segments if segment]


def clock_jumps(times: Sequence[int | None], time_base: Fraction | None, *, may_jump_forward: bool) -> list[int]:
    """Return the positions in ``times`` (in decoding order) before which the clock jumps, as where files were joined.

    The clock jumps if it runs backwards, or (``may_jump_forward``) if it advances by more than JUMP_SECONDS.
    """
    known = [position for position, time in enumerate(times) if time is not None]
    steps = np.diff(np.asarray([times[position] for position in known], dtype=np.int64))
    is_jump = steps < 0
    if may_jump_forward:
        is_jump |= steps > int(JUMP_SECONDS / float(time_base or Fraction(1, 1000)))
    return [known[position + 1] for position in np.flatnonzero(is_jump)]


def _rebased_index(segments: Sequence[Sequence[int]], time_base: Fraction, fps: float) -> FrameIndex:
    """Return the index of segments with clocks of their own: each continues one frame after the one before."""
    step = max(round(1 / fps / float(time_base)), 1)
    times: list[int] = []
    for segment in segments:
        offset = times[-1] + step - segment[0] if times else 0
        times += [pts + offset for pts in segment]
    ordered = np.asarray(times, dtype=np.int64)
    return FrameIndex(ordered, ordered[:1], time_base, fps, is_timed=False)


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
    if len(pts) == len(shown) and not index.is_timed:
        jumps = clock_jumps(pts, index.time_base, may_jump_forward=True)
        return _rebased_index(
            [pts[first:last] for first, last in zip([0, *jumps], [*jumps, len(pts)], strict=True)],
            index.time_base,
            index.fps,
        )
    if len(pts) < len(shown) or len(set(pts)) < len(pts):
        return _counted_index(len(shown), index.fps)
    return replace(index, pts=np.sort(np.asarray(pts, dtype=np.int64)), is_timed=True, is_table=False)


def _counted_index(count: int, fps: float) -> FrameIndex:
    counted = np.arange(count, dtype=np.int64)
    return FrameIndex(counted, counted[:1], 1 / Fraction(fps), fps, is_timed=False)


def _warn_if_short(container: InputContainer, index: FrameIndex, name: str) -> None:
    promised = (container.duration or 0) / av.time_base
    if promised > SHORT_FACTOR * index.duration + SHORT_SECONDS:
        logger.warning("%s: the header gives %.1f s, but the file has %.1f s of video.", name, promised, index.duration)
