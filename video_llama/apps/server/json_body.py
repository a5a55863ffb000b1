"""Parsing of JSON request bodies at a cost that is bounded by limits, not by the client.

A body is scanned before it is parsed: a body of 12 MB can contain a million keys, whose objects and validation errors
take a hundred times as much memory. Strings are skipped at the speed of ``bytes.find``.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

from video_llama.apps.server.errors import ApiError

TOKEN = re.compile(rb'["\[\]{},]')
SPACE = b" \t\r\n:"
QUOTE, OPENING, CLOSING = b'"', b"[{", b"]}"
MAX_ESCAPES = 2**20
"""Maximum number of backslashes: enough for a large file in base64 whose slashes are escaped, as PHP does."""
MAX_LITERAL = 4096
"""Maximum number of characters of a number."""
SCANNED_BYTES = 2**20
"""Bytes that are counted at once. Between two blocks, other threads can run."""


@dataclass(frozen=True)
class JsonLimits:
    """Maximum number of keys and list items, and maximum nesting depth, of a request body."""

    max_items: int
    max_depth: int


def parse_json(body: bytes | bytearray, limits: JsonLimits) -> Any:
    """Return the value of a JSON body. Raises ApiError if it is not JSON or exceeds a limit."""
    _scan(body, limits)
    try:
        return json.loads(body.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise ApiError(400, f"The request is not UTF-8 (byte {error.start}). Encode it as UTF-8.") from error
    except json.JSONDecodeError as error:
        raise ApiError(400, f"The request is not JSON: {error.msg} at character {error.pos}.") from error
    except ValueError as error:  # an integer with thousands of digits
        raise ApiError(400, "The request contains a number with too many digits. Give a smaller one.") from error


def _scan(body: bytes | bytearray, limits: JsonLimits) -> None:
    """Raise ApiError if the body exceeds a limit. Stops where the body is certainly not JSON; the parser reports that.

    Every value follows an opening bracket or a comma, so these are counted. A value and its key have two strings.
    """
    blocks = range(0, len(body), SCANNED_BYTES)
    if sum(body.count(b"\\", start, start + SCANNED_BYTES) for start in blocks) > MAX_ESCAPES:
        raise ApiError(400, f"The request contains more than {MAX_ESCAPES:,} backslashes. Send media in base64.")
    position = depth = num_items = num_strings = 0
    while position < len(body):
        match = TOKEN.search(body, position, position + SCANNED_BYTES)
        end = position + SCANNED_BYTES if match is None else match.start()
        if end - position > MAX_LITERAL:
            _check_literal(body[position:end])
        if match is None:
            position = end
            continue
        token, position = match.group(), match.end()
        if token == QUOTE:
            num_strings += 1
            position = _end_of_string(body, position)
        elif token in CLOSING:
            depth -= 1
        else:
            num_items += 1
            depth += token in OPENING
        if num_items > limits.max_items or num_strings > 2 * limits.max_items + 2:
            message = f"The request has more than {limits.max_items:,} keys and list items. Send a smaller one."
            raise ApiError(400, message)
        if depth > limits.max_depth:
            raise ApiError(400, f"The request is nested deeper than {limits.max_depth} levels. Send a flatter one.")
        if depth < 0:
            return


def _check_literal(text: bytes | bytearray) -> None:
    if len(text.strip(SPACE)) > MAX_LITERAL:
        raise ApiError(400, f"The request has a number of more than {MAX_LITERAL:,} characters. Give a smaller one.")


def _end_of_string(body: bytes | bytearray, start: int) -> int:
    """Return the position after the closing quote of a string, or the end of the body if it has none."""
    position = start
    while (quote := body.find(QUOTE, position)) >= 0:
        first = quote
        while first > start and body[first - 1] == ord("\\"):
            first -= 1
        position = quote + 1
        if (quote - first) % 2 == 0:
            return position
    return len(body)
