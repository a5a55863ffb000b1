"""What travels between a server and its media processes: a JSON header and raw bytes, never a pickle.

A process that a hostile file has taken over can send wrong numbers this way, and nothing that runs. A message is the
header's length (4 bytes, big-endian), the header, and the bytes of its arrays in their order.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Callable
from dataclasses import asdict, replace
from typing import Any

import numpy as np

from video_llama.processors.medium import MediaOptions, ReadMedium
from video_llama.processors.sampling import FrameSampling
from video_llama.processors.sound_clips import SoundClips
from video_llama.processors.video_processor import SampledVideo

LENGTH = struct.Struct(">I")
MAX_HEADER_BYTES = 2**20
MAX_ARRAY_BYTES = 2**28
DTYPES = ("uint8", "float32")

Fields = dict[str, Any]


class WireError(Exception):
    """The other side sent something that is no message."""


def pack(fields: Fields, *blobs: bytes) -> bytes:
    """One message: ``fields`` as the header, then the blobs, which the header must describe."""
    header = json.dumps(fields).encode()
    return b"".join([LENGTH.pack(len(header)), header, *blobs])


def header_length(prefix: bytes) -> int:
    """The header's length. Raises WireError where it is longer than a header may be."""
    length: int = LENGTH.unpack(prefix)[0]
    if length > MAX_HEADER_BYTES:
        raise WireError(f"a header of {length} bytes")
    return length


def parse_header(header: bytes) -> Fields:
    """The header's fields. Raises WireError where it is no JSON object."""
    try:
        fields = json.loads(header)
    except ValueError as error:
        raise WireError("a header that is no JSON") from error
    if not isinstance(fields, dict):
        raise WireError("a header that is no object")
    return fields


def array_sizes(fields: Fields) -> list[int]:
    """Bytes of each array behind a medium's header. Raises WireError for impossible ones."""
    try:
        sizes = [_num_bytes(array) for array in fields["arrays"]]
    except (KeyError, TypeError, ValueError) as error:
        raise WireError("a header that does not describe its arrays") from error
    if sum(sizes) > MAX_ARRAY_BYTES:
        raise WireError(f"arrays of {sum(sizes)} bytes")
    return sizes


def _num_bytes(array: Fields) -> int:
    shape = [int(length) for length in array["shape"]]
    if array["dtype"] not in DTYPES or min(shape, default=0) < 0:
        raise ValueError(f"an array of {array['dtype']} {shape}")
    return math.prod(shape) * np.dtype(array["dtype"]).itemsize


def pack_medium(medium: ReadMedium) -> bytes:
    """A medium's message; ``unpack_medium`` reads it."""
    arrays: list[np.ndarray] = []
    fields: Fields = {name: getattr(medium, name) for name in ("kind", "source", "why_no_frames", "why_no_sound")}
    for name, array_name in (("frames", "frames"), ("sound", "samples")):
        part = getattr(medium, name)
        if part is not None:
            arrays.append(np.ascontiguousarray(getattr(part, array_name)))
            fields[name] = {key: _plain(value) for key, value in vars(part).items() if key != array_name}
    described = [{"dtype": array.dtype.name, "shape": list(array.shape)} for array in arrays]
    return pack({**fields, "arrays": described}, *(array.tobytes() for array in arrays))


def _plain(value: Any) -> Any:
    """Numbers as JSON knows them (a frame's index may be numpy's)."""
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value.item() if isinstance(value, np.generic) else value


def unpack_medium(fields: Fields, blobs: list[bytes]) -> ReadMedium:
    """The medium of a message. Raises WireError where its fields are not a medium's."""
    try:
        arrays = iter(
            np.frombuffer(bytearray(blob), array["dtype"]).reshape(array["shape"])  # one that may be written to
            for array, blob in zip(fields["arrays"], blobs, strict=True)
        )
        medium = ReadMedium(fields["kind"], fields["source"])
        if fields.get("frames") is not None:
            medium = replace(medium, frames=SampledVideo(frames=next(arrays), **fields["frames"]))
        if fields.get("sound") is not None:
            medium = replace(medium, sound=SoundClips(samples=next(arrays), **fields["sound"]))
        return replace(medium, why_no_frames=fields["why_no_frames"], why_no_sound=fields["why_no_sound"])
    except (KeyError, TypeError, ValueError, StopIteration) as error:
        raise WireError("fields that are no medium's") from error


def options_fields(options: MediaOptions) -> Fields:
    """``MediaOptions`` for a header."""
    return asdict(options)


def options_of(fields: Fields) -> MediaOptions:
    """``MediaOptions`` from a header."""
    frames = fields["frames"]
    if frames is not None:
        times = frames["times"]
        frames = FrameSampling(**{**frames, "times": None if times is None else tuple(times)})
    return MediaOptions(frames, fields["no_audio"], fields["require_audio"])


def read_exactly(read: Callable[[int], bytes], num_bytes: int) -> bytes:
    """``num_bytes`` from a blocking reader. Raises EOFError where it ends before."""
    data = read(num_bytes)
    if len(data) < num_bytes:
        raise EOFError
    return data
