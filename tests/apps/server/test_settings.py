"""Settings of the server: defaults, bounds, and the API key."""

import pytest
from pydantic import ValidationError

from video_llama.apps.server import ServerSettings


def test_nothing_outside_the_request_is_accessible_by_default():
    settings = ServerSettings()
    assert (settings.allowed_hosts, settings.media_root, settings.api_key) == ((), None, None)


def test_every_field_has_a_description():
    assert all(field.description for field in ServerSettings.model_fields.values())


@pytest.mark.parametrize("fields", [{"max_rows": 0}, {"request_seconds": 0}, {"max_queue": -1}, {"max_rowz": 1}])
def test_bounds(fields):
    with pytest.raises(ValidationError, match=next(iter(fields))):
        ServerSettings(**fields)


def test_api_key_is_not_printed():
    assert "s3cret" not in repr(ServerSettings(api_key="s3cret"))
