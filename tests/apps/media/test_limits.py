"""Limits of decoding."""

import pytest
from pydantic import ValidationError

from video_llama.apps.media.limits import MediaLimits


@pytest.mark.parametrize("name", sorted(MediaLimits.model_fields))
def test_limits_are_positive(name):
    assert getattr(MediaLimits(), name) > 0
    with pytest.raises(ValidationError):
        MediaLimits(**{name: 0})
