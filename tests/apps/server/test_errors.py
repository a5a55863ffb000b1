"""Error bodies in the format of the OpenAI API."""

import pytest

from video_llama.apps.server.errors import ApiError


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, "invalid_request_error"),
        (401, "authentication_error"),
        (404, "not_found_error"),
        (413, "invalid_request_error"),
        (429, "rate_limit_error"),
        (500, "server_error"),
        (503, "unavailable_error"),
        (504, "timeout_error"),
    ],
)
def test_body(status, kind):
    error = ApiError(status, "Too long. Shorten it.", code="a", param="messages")
    expected = {"message": "Too long. Shorten it.", "type": kind, "param": "messages", "code": "a"}
    assert error.body() == {"error": expected}
