"""Limits of reading media."""

import pytest

from video_llama.apps.batch.limits import BatchLimits
from video_llama.config import parse_config
from video_llama.errors import ConfigError


def test_limits_of_the_server_with_all_public_hosts():
    limits = BatchLimits()
    assert (limits.allowed_hosts, limits.media_workers) == (("*",), 2)
    with pytest.raises(ConfigError, match=r"max_media_byte: unknown key. Did you mean max_media_bytes"):
        parse_config(BatchLimits, {"max_media_byte": 3}, source="batch")
