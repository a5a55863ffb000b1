"""Limits of JSON bodies, which are checked at a bounded cost, and equality with the parser of the standard library."""

import json
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from video_llama.apps.server.errors import ApiError
from video_llama.apps.server.json_body import MAX_ESCAPES, JsonLimits, parse_json

LIMITS = JsonLimits(max_items=50, max_depth=8)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)


@given(VALUES, st.booleans(), st.sampled_from([None, 2]))
def test_equals_the_standard_library(value, ensure_ascii, indent):
    body = json.dumps(value, ensure_ascii=ensure_ascii, indent=indent).encode("utf-8", "surrogatepass")
    assert parse_json(body, LIMITS) == value


@given(st.text('[]{},:"\\\\a1 ', max_size=40))
def test_refuses_what_the_standard_library_refuses(text):
    try:
        expected = json.loads(text)
    except ValueError:
        with pytest.raises(ApiError):
            parse_json(text.encode(), LIMITS)
    else:
        assert parse_json(text.encode(), LIMITS) == expected


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"[" + b"1," * 50 + b"1]", "more than 50 keys and list items"),
        (b"{" + b'"a":1,' * 50 + b'"b":1}', "more than 50 keys and list items"),
        (b"[" * 9, "nested deeper than 8 levels"),
        (b'{"a":' * 9, "nested deeper than 8 levels"),
        (b"1" * 5000, "a number of more than 4,096 characters"),
        (b"[" + b"9" * 4090 + b"." + b"9" * 4090 + b"]", "a number of more than 4,096 characters"),
        (b"\xff", "not UTF-8"),
        (b'"' + b"\\n" * (MAX_ESCAPES + 1) + b'"', "more than 1,048,576 backslashes"),
    ],
)
def test_limits(body, message):
    with pytest.raises(ApiError, match=message) as caught:
        parse_json(body, LIMITS)
    assert caught.value.status == 400


def test_brackets_and_commas_in_strings_do_not_count():
    text = '[{,"' * 100 + "\\"
    assert parse_json(json.dumps([text]).encode(), LIMITS) == [text]


HOSTILE = {
    "keys": b"{" + b",".join(b'"k%d":0' % n for n in range(10**6)) + b"}",
    "containers": b"[" + b"{}," * 10**6 + b"{}]",
    "strings": b'""' * 10**7,
    "closing brackets": b"]" * 10**7,
    "spaces": b" " * 10**7,
    "escaped quotes": b'"' + b'\\"' * 10**6 + b'"' + b"{" * 10**6,
}


@pytest.mark.parametrize("name", HOSTILE)
def test_cost_is_bounded(name):
    start = time.process_time()
    with pytest.raises(ApiError):
        parse_json(HOSTILE[name], JsonLimits(max_items=20_000, max_depth=32))
    assert time.process_time() - start < 2
