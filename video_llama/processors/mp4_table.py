"""Read the composition time offsets (``ctts``) of an mp4 or mov, which PyAV does not expose.

In: the bytes of a file. Out: presentation time minus decoding time of each sample. Only headers are read.
Source: ISO/IEC 14496-12, boxes ``moov`` / ``trak`` / ``mdia`` / ``minf`` / ``stbl`` / ``ctts``.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from typing import BinaryIO

import numpy as np

Mp4Box = tuple[bytes, int, int]  # type, offset of the payload, offset after it

TABLE_PATH = (b"mdia", b"minf", b"stbl")
# The track's number follows two times in the track header: of 8 bytes in version 1, of 4 bytes in version 0.
TRACK_NUMBER_AT = {0: 12, 1: 20}


def composition_offsets(file: BinaryIO, track: int, num_samples: int) -> np.ndarray | None:
    """Return int64 [num_samples] in the track's time unit, or None if the table is missing or inconsistent."""
    try:
        sample_tables = _sample_tables(file, track)
        if sample_tables is None:
            return None
        found = [box for box in sample_tables if box[0] == b"ctts"]
        return _offsets(file, found[0], num_samples) if found else np.zeros(num_samples, np.int64)
    except struct.error:  # a truncated header
        return None


def codec_tag(file: BinaryIO, track: int) -> str | None:
    """Return the four-character code of a track's codec, or None if the file is not an mp4 or mov."""
    try:
        for kind, start, end in _sample_tables(file, track) or []:
            if kind == b"stsd" and end - start >= 16:
                file.seek(start + 12)  # version and flags, number of entries, size of the first entry
                return file.read(4).decode("ascii", errors="replace")
    except struct.error:  # a truncated header
        pass
    return None


def _sample_tables(file: BinaryIO, track: int) -> list[Mp4Box] | None:
    """Return the boxes of a track's sample tables, or None if there is not exactly one such track."""
    end = file.seek(0, os.SEEK_END)
    movies = [box for box in _boxes(file, 0, end) if box[0] == b"moov"]
    tracks = [box for movie in movies for box in _boxes(file, *movie[1:]) if box[0] == b"trak"]
    boxes = [box for box in tracks if _track_number(file, box) == track]
    if len(boxes) != 1:
        return None
    for kind in TABLE_PATH:
        boxes = [inner for box in boxes for inner in _boxes(file, *box[1:]) if inner[0] == kind]
    return [inner for box in boxes for inner in _boxes(file, *box[1:])]


def _boxes(file: BinaryIO, start: int, end: int) -> Iterator[Mp4Box]:
    while start + 8 <= end:
        file.seek(start)
        size, kind = struct.unpack(">I4s", file.read(8))
        payload = start + 8
        if size == 1:
            (size,) = struct.unpack(">Q", file.read(8))
            payload += 8
        last = end if size == 0 else start + size
        if not payload <= last <= end:
            return
        yield kind, payload, last
        start = last


def _track_number(file: BinaryIO, track: Mp4Box) -> int | None:
    for kind, start, _ in _boxes(file, *track[1:]):
        if kind == b"tkhd":
            file.seek(start)
            (version,) = struct.unpack(">B", file.read(1))
            file.seek(start + TRACK_NUMBER_AT.get(version, 12))
            (number,) = struct.unpack(">I", file.read(4))
            return int(number)
    return None


def _offsets(file: BinaryIO, box: Mp4Box, num_samples: int) -> np.ndarray | None:
    """Expand the runs (count, offset) of a ``ctts`` box; None if they do not add up to ``num_samples``."""
    _, start, end = box
    file.seek(start)
    _, num_runs = struct.unpack(">II", file.read(8))
    if 8 * num_runs > end - start - 8:
        return None
    runs = np.frombuffer(file.read(8 * num_runs), dtype=">i4").astype(np.int64).reshape(-1, 2)
    if len(runs) != num_runs or np.any(runs[:, 0] < 0) or int(runs[:, 0].sum()) != num_samples:
        return None
    return np.repeat(runs[:, 1], runs[:, 0])
