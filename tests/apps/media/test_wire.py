"""What a media process sends is checked: one that a file has taken over can send anything."""

import pytest

from video_llama.apps.media.wire import LENGTH, WireError, array_sizes, header_length, parse_header


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"arrays": [{"dtype": "object", "shape": [1]}]},
        {"arrays": [{"dtype": "uint8", "shape": [-1]}]},
        {"arrays": [{"dtype": "uint8", "shape": [2**29]}]},
        {"arrays": 3},
    ],
)
def test_wire_believes_nothing(fields):
    with pytest.raises(WireError):
        array_sizes(fields)


def test_wire_headers():
    assert parse_header(b'{"a": 1}') == {"a": 1}
    for header in (b"[]", b"\xff", b"{"):
        with pytest.raises(WireError):
            parse_header(header)
    with pytest.raises(WireError, match="a header of 4294967295 bytes"):
        header_length(LENGTH.pack(2**32 - 1))
