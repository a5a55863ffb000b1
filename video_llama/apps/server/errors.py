"""HTTP errors in the format of the OpenAI API."""

from __future__ import annotations

from typing import Any, overload

MAX_MESSAGE = 1000
"""Maximum number of characters of a message. It may contain values of the request."""

DEFAULT_ERROR_TYPE = "invalid_request_error"
ERROR_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    408: "timeout_error",
    429: "rate_limit_error",
    500: "server_error",
    503: "unavailable_error",
    504: "timeout_error",
}
"""Error type for each HTTP status that does not have the default type."""


class ApiError(Exception):
    """An error response: HTTP status, message, optional code, and the request parameter that caused it."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str | None = None,
        param: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.code, self.param, self.headers = status, code, param, headers

    def body(self) -> dict[str, Any]:
        """Return the response body."""
        kind = ERROR_TYPES.get(self.status, DEFAULT_ERROR_TYPE)
        return {"error": {"message": _clean(str(self)), "type": kind, "param": _clean(self.param), "code": self.code}}


@overload
def _clean(text: str) -> str: ...
@overload
def _clean(text: None) -> None: ...
def _clean(text: str | None) -> str | None:
    """Return text without lone surrogates, which cannot be encoded, and of limited length."""
    if text is None:
        return None
    text = text if len(text) <= MAX_MESSAGE else f"{text[:MAX_MESSAGE]} ..."
    return text.encode("utf-8", "replace").decode()
