"""From the bytes of a request to a ``ChatRequest``, outside the event loop, with errors that name the faulty part."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from pydantic import ValidationError

from video_llama.apps.server.errors import ApiError
from video_llama.apps.server.json_body import JsonLimits, parse_json
from video_llama.apps.server.protocol import ChatRequest
from video_llama.apps.server.request_model import UNSUPPORTED, is_tag
from video_llama.apps.server.settings import ServerSettings

SMALL_BODY = 2**14
"""Bodies up to this size are parsed in the event loop: it takes less time than waking another thread."""
MAX_STEP = 64
"""Maximum number of characters of a key in an error message."""

MESSAGES = {
    "missing": "is required",
    "extra_forbidden": UNSUPPORTED,
    "model_type": "must be an object",
    "model_attributes_type": "must be an object",
    "dict_type": "must be an object",
    "list_type": "must be a list",
    "string_type": "must be a string",
    "string_unicode": "a text contains half of a surrogate pair. Send the text as UTF-8",
}
"""Messages for pydantic's types of errors, where its own are about Python."""


class RequestParser:
    """Parses one large body at a time, in a thread of its own."""

    def __init__(self, settings: ServerSettings) -> None:
        self._limits = JsonLimits(settings.max_json_items, settings.max_json_depth)
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="video-llama-parser")

    async def parse(self, body: bytearray, content_type: str) -> ChatRequest:
        """Return the request in a body. Raises ApiError if it is invalid."""
        if not _is_json(content_type):
            raise ApiError(400, "The request is not JSON. Send it with the header Content-Type: application/json")
        if len(body) <= SMALL_BODY:
            parsed = parse_request(body, self._limits)
        else:
            parsed = await asyncio.get_running_loop().run_in_executor(self._thread, parse_request, body, self._limits)
        if isinstance(parsed, ApiError):
            raise parsed
        return parsed


def _is_json(content_type: str) -> bool:
    kind = content_type.partition(";")[0].strip().lower()
    return kind == "application/json" or (kind.startswith("application/") and kind.endswith("+json"))


def parse_request(body: bytearray, limits: JsonLimits) -> ChatRequest | ApiError:
    """Return the request in a body, or the error: one that is raised in a thread would keep the body in memory."""
    try:
        return ChatRequest.model_validate(parse_json(body, limits))
    except ApiError as error:
        return error.with_traceback(None)
    except ValidationError as error:
        return _first_problem(error)


def _first_problem(error: ValidationError) -> ApiError:
    """Return the first validation error with its location in the request, without repeating the invalid value."""
    problem = error.errors(include_url=False, include_input=False, include_context=False)[0]
    location = location_of(problem["loc"], problem["type"])
    message = MESSAGES.get(problem["type"], problem["msg"])
    return ApiError(400, f"{location or 'The request'}: {message}.", param=location or None)


def location_of(steps: Sequence[str | int], kind: str = "") -> str:
    """Return the location of an error, such as ``messages[0].content[1].image_url``, from the steps of pydantic."""
    text = ""
    for index, step in enumerate(steps):
        is_key = kind == "extra_forbidden" and index == len(steps) - 1
        if isinstance(step, int):
            text += f"[{step}]"
        elif is_key or not is_tag(step):
            step = step if len(step) <= MAX_STEP else f"{step[:MAX_STEP]}..."
            text += f".{step}" if text else step
    return text
