"""Decode selected frames of a video, and as few others as possible.

In: an open container, its ``FrameIndex``, frame indices. Out: uint8 RGB pictures [3, H, W] by index.
Pictures equal decord's bit for bit: libavfilter ``scale=W:H:flags=bilinear,format=rgb24``, after the rotation that the
file specifies (swscale through ``VideoFrame.reformat`` rounds differently).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any, Literal

import av
import numpy as np
from av import Packet, VideoFrame, VideoStream
from av.container import InputContainer
from av.filter import Graph
from av.filter.context import FilterContext

from video_llama.processors.media_file import MediaFile
from video_llama.processors.video_index import FrameIndex, video_stream

Pictures = dict[int, np.ndarray]  # frame index -> uint8 RGB [3, H, W]

# Filters that apply a display matrix. The key is the signs of its elements (a, b, c, d): a pixel at (x, y) is shown at
# (a x + c y, b x + d y), with y downwards.
UPRIGHT = (1, 0, 0, 1)
ORIENTATIONS: dict[tuple[int, int, int, int], tuple[tuple[str, str | None], ...]] = {
    UPRIGHT: (),
    (-1, 0, 0, 1): (("hflip", None),),
    (1, 0, 0, -1): (("vflip", None),),
    (-1, 0, 0, -1): (("hflip", None), ("vflip", None)),
    (0, 1, -1, 0): (("transpose", "clock"),),
    (0, -1, 1, 0): (("transpose", "cclock"),),
    (0, 1, 1, 0): (("transpose", "cclock_flip"),),
    (0, -1, -1, 0): (("transpose", "clock_flip"),),
}
# Filters require a time base; raw streams have none, and scaling does not depend on it.
ANY_TIME_BASE = Fraction(1, 1000)
# After a seek that lands late (in MPEG-TS one packet behind a keyframe), an earlier keyframe is tried.
EARLIER_KEYFRAMES = (0, 1)
# dav1d reads skip_frame only when it is opened, so wanted frames would be skipped as well.
NEVER_SKIPPING = ("libdav1d",)
# Up to this many frames between two wanted ones, decoding on is cheaper than a seek.
SEEK_WORTH_FRAMES = 4


class Scaler:
    """Convert decoded frames to uint8 RGB [3, H, W]. Keeps a filter graph per frame format, which can change."""

    def __init__(self, size: tuple[int, int]) -> None:
        self.size = size
        self._graphs: dict[tuple[object, ...], tuple[Graph, FilterContext, FilterContext]] = {}

    def __call__(self, frame: VideoFrame) -> np.ndarray:
        turn = orientation(frame)
        kind = (frame.width, frame.height, frame.format.name, frame.colorspace, frame.color_range, turn)
        if kind not in self._graphs:
            self._graphs[kind] = self._build(frame, turn)
        _, head, tail = self._graphs[kind]
        head.push(frame)
        picture = tail.pull()
        assert isinstance(picture, VideoFrame)
        return np.ascontiguousarray(picture.to_ndarray().transpose(2, 0, 1))

    def _build(self, frame: VideoFrame, turn: tuple[int, int, int, int]) -> tuple[Graph, FilterContext, FilterContext]:
        height, width = self.size
        graph, time_base = Graph(), frame.time_base or ANY_TIME_BASE
        head = graph.add_buffer(width=frame.width, height=frame.height, format=frame.format, time_base=time_base)
        nodes = [head]
        nodes += [graph.add(name, argument) for name, argument in ORIENTATIONS[turn]]
        nodes += [graph.add("scale", f"{width}:{height}:flags=bilinear"), graph.add("format", "rgb24")]
        nodes.append(graph.add("buffersink"))
        graph.link_nodes(*nodes).configure()
        return graph, head, nodes[-1]


def orientation(frame: VideoFrame) -> tuple[int, int, int, int]:
    """Return the key in ORIENTATIONS of a frame's display matrix: the nearest rotation, mirrored or not."""
    data = frame.side_data.get("DISPLAYMATRIX")
    if data is None:
        return UPRIGHT
    matrix: Any = data  # a buffer
    a, b, _, c, d = (int(value) for value in np.frombuffer(matrix, dtype=np.int32)[:5])
    if abs(a) + abs(d) >= abs(b) + abs(c):
        return (_sign(a), 0, 0, _sign(d))
    return (0, _sign(b), _sign(c), 0)


def _sign(value: int) -> int:
    return -1 if value < 0 else 1


def decode_by_seeking(
    container: InputContainer, stream: VideoStream, index: FrameIndex, indices: list[int], scaler: Scaler
) -> Pictures:
    """Decode ``indices`` (sorted), seeking from group to group. Frames that cannot be decoded this way are omitted."""
    if not (index.is_timed and index.is_seekable):
        return {}
    if not stream.codec_context.is_open:
        stream.thread_type = "AUTO"
    by_pts = {int(index.pts[i]): i for i in indices}
    pictures: Pictures = {}

    def take(frame: VideoFrame) -> None:
        if frame.pts in by_pts and not frame.is_corrupt:
            pictures.setdefault(by_pts[frame.pts], scaler(frame))

    at_start = index.is_table  # no packet has been read yet
    for group in _groups(index, indices):
        for earlier in EARLIER_KEYFRAMES:
            missing = {int(index.pts[i]) for i in group if i not in pictures}
            if not missing or not len(index.keyframes):
                break
            key = _keyframe_before(index, min(missing))
            is_there = at_start and key == earlier == 0
            if not is_there and not _seek(container, stream, _seek_target(index, key - earlier)):
                return pictures
            at_start = False
            _decode_until(container, stream, int(index.keyframes[key]), missing, take)
        if any(i not in pictures for i in group):
            break  # reading the rest in order, once, is faster
    return pictures


def _groups(index: FrameIndex, indices: list[int]) -> list[list[int]]:
    """Split the wanted frames wherever seeking to a keyframe between two of them saves decoding."""
    groups: list[list[int]] = []
    key_positions = np.searchsorted(index.pts, index.keyframes)
    for i in indices:
        key = int(np.searchsorted(key_positions, i, side="right")) - 1
        if groups and (key < 0 or key_positions[key] - groups[-1][-1] <= SEEK_WORTH_FRAMES):
            groups[-1].append(i)
        else:
            groups.append([i])
    return groups


def _keyframe_before(index: FrameIndex, pts: int) -> int:
    """Return the position in ``index.keyframes`` of the last one at or before ``pts``, or 0."""
    return max(0, int(np.searchsorted(index.keyframes, pts, side="right")) - 1)


def _seek_target(index: FrameIndex, key: int) -> int:
    """Return the timestamp of a keyframe; before the first one, a time one second before every frame."""
    if key >= 0:
        return int(index.keyframes[key])
    return int(min(index.pts[0], index.keyframes[0]) - 1 / index.time_base)


def _seek(container: InputContainer, stream: VideoStream, pts: int) -> bool:
    try:
        container.seek(pts, stream=stream, backward=True)
    except (av.error.FFmpegError, OSError):
        return False
    return True


def _decode_until(
    container: InputContainer,
    stream: VideoStream,
    key: int,
    wanted: set[int],
    take: Callable[[VideoFrame], None],
) -> None:
    """Decode packets from a keyframe (pts ``key``) until all of ``wanted`` (pts) are decoded; skip unneeded frames."""
    context = stream.codec_context
    pending, last = set(wanted), max(wanted)
    skipped: Literal["DEFAULT", "NONREF"] = "DEFAULT" if context.codec.name in NEVER_SKIPPING else "NONREF"
    context.skip_frame = skipped
    try:
        for packet in _packets_from(container, stream, key):
            context.skip_frame = "DEFAULT" if packet.pts in wanted else skipped
            for frame in _decode(stream, packet):
                take(frame)
            pending.discard(packet.pts)
            # Decoding times never exceed presentation times: no wanted frame follows a later decoding time.
            if not pending or (packet.dts is not None and packet.dts > last):
                break
    except av.error.FFmpegError:
        pass  # truncated file: missing frames are searched by reading in order, and reported there
    context.skip_frame = "DEFAULT"
    for frame in _decode(stream, None):
        take(frame)


def _packets_from(container: InputContainer, stream: VideoStream, key: int) -> Iterator[Packet[VideoStream]]:
    """Yield packets from the keyframe with pts ``key``, or an earlier one, on.

    Yields nothing if the position is behind that keyframe: frames before the next one could not be decoded correctly.
    """
    is_found = False
    for packet in container.demux(stream):
        if packet.size == 0:  # empty, or the end of the stream
            continue
        if not is_found:
            if not packet.is_keyframe or packet.pts is None:
                continue
            if packet.pts > key:
                return
            is_found = True
        yield packet


def _decode(stream: VideoStream, packet: Packet[VideoStream] | None) -> list[VideoFrame]:
    """Decode one packet (None flushes the decoder); return no frame for a packet that the decoder rejects."""
    try:
        return stream.codec_context.decode(packet)
    except (av.error.InvalidDataError, av.error.EOFError):
        return []


@dataclass
class OrderedRead:
    """Result of decoding a file from its first packet."""

    pictures: Pictures = field(default_factory=dict)
    shown: list[int | None] = field(default_factory=list)  # pts of the frames, in display order
    num_packets: int = 0  # without those that the edit list removes
    num_refused: int = 0  # packets that the decoder rejected


def decode_in_order(media: MediaFile, index: FrameIndex, indices: list[int], scaler: Scaler) -> OrderedRead:
    """Open a new container and decode every frame until all of ``indices`` are found or the file ends."""
    read = OrderedRead()
    wanted = {int(index.pts[i]) if index.is_timed else i: i for i in indices}
    with media.container() as container:
        stream = video_stream(container, media)
        for frame in frames_in_order(container, stream, read):
            key = frame.pts if index.is_timed else len(read.shown)
            read.shown.append(frame.pts)
            if key in wanted:
                read.pictures.setdefault(wanted[key], scaler(frame))
                if len(read.pictures) == len(wanted):
                    break
    return read


def frames_in_order(container: InputContainer, stream: VideoStream, read: OrderedRead) -> Iterator[VideoFrame]:
    """Yield the frames of a container from its start, in display order; count packets and refused ones in ``read``."""
    stream.thread_type = "AUTO"
    try:
        for packet in container.demux(stream):
            if packet.size == 0:  # empty, or the end of the stream
                continue
            read.num_packets += not packet.is_discard
            try:
                yield from stream.codec_context.decode(packet)
            except av.error.InvalidDataError:
                read.num_refused += 1
    except av.error.FFmpegError:
        read.num_refused += 1
    yield from _decode(stream, None)
