"""Messages between a server and its media processes: a JSON header and raw bytes, never pickles.

A compromised process can send wrong numbers in this format, but no code. A message is the length of the header (4
bytes, big-endian), the header, and the bytes of its arrays in order.
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
    """The other side sent an invalid message."""


def pack(fields: Fields, *blobs: bytes) -> bytes:
    """Return one message: ``fields`` as the header, then the blobs, which the header must describe."""
    header = json.dumps(fields).encode()
    return b"".join([LENGTH.pack(len(header)), header, *blobs])


def header_length(prefix: bytes) -> int:
    """Return the length of the header. Raises WireError if it exceeds the limit."""
    length: int = LENGTH.unpack(prefix)[0]
    if length > MAX_HEADER_BYTES:
        raise WireError(f"a header of {length} bytes")
    return length


def parse_header(header: bytes) -> Fields:
    """Return the fields of the header. Raises WireError if it is not a JSON object."""
    try:
        fields = json.loads(header)
    except ValueError as error:
        raise WireError("the header is not JSON") from error
    if not isinstance(fields, dict):
        raise WireError("the header is not an object")
    return fields


def array_sizes(fields: Fields) -> list[int]:
    """Return the size of each array after the header, in bytes. Raises WireError for invalid sizes."""
    try:
        sizes = [_num_bytes(array) for array in fields["arrays"]]
    except (KeyError, TypeError, ValueError) as error:
        raise WireError("the header does not describe its arrays") from error
    if sum(sizes) > MAX_ARRAY_BYTES:
        raise WireError(f"arrays of {sum(sizes)} bytes")
    return sizes


def _num_bytes(array: Fields) -> int:
    shape = [int(length) for length in array["shape"]]
    if array["dtype"] not in DTYPES or min(shape, default=0) < 0:
        raise ValueError(f"an array of {array['dtype']} {shape}")
    return math.prod(shape) * np.dtype(array["dtype"]).itemsize


def pack_medium(medium: ReadMedium) -> bytes:
    """Return the message of a medium; ``unpack_medium`` is the inverse."""
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
    """Convert numpy numbers and sequences for JSON."""
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value.item() if isinstance(value, np.generic) else value


def unpack_medium(fields: Fields, blobs: list[bytes]) -> ReadMedium:
    """Return the medium of a message. Raises WireError for invalid fields."""
    try:
        arrays = iter(
            np.frombuffer(bytearray(blob), array["dtype"]).reshape(array["shape"])  # writable
            for array, blob in zip(fields["arrays"], blobs, strict=True)
        )
        medium = ReadMedium(fields["kind"], fields["source"])
        if fields.get("frames") is not None:
            medium = replace(medium, frames=SampledVideo(frames=next(arrays), **fields["frames"]))
        if fields.get("sound") is not None:
            medium = replace(medium, sound=SoundClips(samples=next(arrays), **fields["sound"]))
        return replace(medium, why_no_frames=fields["why_no_frames"], why_no_sound=fields["why_no_sound"])
    except (KeyError, TypeError, ValueError, StopIteration) as error:
        raise WireError("the fields are not those of a medium") from error


def options_fields(options: MediaOptions) -> Fields:
    """Return ``MediaOptions`` as header fields."""
    return asdict(options)


def options_of(fields: Fields) -> MediaOptions:
    """Return ``MediaOptions`` from header fields."""
    frames = fields["frames"]
    if frames is not None:
        times = frames["times"]
        frames = FrameSampling(**{**frames, "times": None if times is None else tuple(times)})
    return MediaOptions(frames, fields["no_audio"], fields["require_audio"])


def read_exactly(read: Callable[[int], bytes], num_bytes: int) -> bytes:
    """Return ``num_bytes`` from a blocking reader. Raises EOFError if it ends before."""
    data = read(num_bytes)
    if len(data) < num_bytes:
        raise EOFError
    return data
