"""HTTP errors in the format of the OpenAI API."""

from __future__ import annotations

from typing import Any

INVALID, AUTHENTICATION, NOT_FOUND = "invalid_request_error", "authentication_error", "not_found_error"
RATE_LIMIT, SERVER, TIMEOUT, UNAVAILABLE = "rate_limit_error", "server_error", "timeout_error", "unavailable_error"

ERROR_TYPES = {401: AUTHENTICATION, 404: NOT_FOUND, 429: RATE_LIMIT, 500: SERVER, 503: UNAVAILABLE, 504: TIMEOUT}
"""Error type for each HTTP status; any other status has the type ``INVALID``."""


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
        kind = ERROR_TYPES.get(self.status, INVALID)
        return {"error": {"message": str(self), "type": kind, "param": self.param, "code": self.code}}
