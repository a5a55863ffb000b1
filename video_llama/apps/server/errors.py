"""What a client is told when it cannot be served, in the shape of OpenAI's errors."""

from __future__ import annotations

from typing import Any

INVALID, AUTHENTICATION, NOT_FOUND = "invalid_request_error", "authentication_error", "not_found_error"
RATE_LIMIT, SERVER, TIMEOUT, UNAVAILABLE = "rate_limit_error", "server_error", "timeout_error", "unavailable_error"

TYPES = {401: AUTHENTICATION, 404: NOT_FOUND, 429: RATE_LIMIT, 500: SERVER, 503: UNAVAILABLE, 504: TIMEOUT}
"""The error's type by HTTP status; every other status is ``INVALID``."""


class ApiError(Exception):
    """An answer that is an error: HTTP status, message, and, where they help, a code and the parameter at fault."""

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
        """The error as JSON's dict."""
        kind = TYPES.get(self.status, INVALID)
        return {"error": {"message": str(self), "type": kind, "param": self.param, "code": self.code}}
