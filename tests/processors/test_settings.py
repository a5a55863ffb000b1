"""The scalars of processor_config.json."""

import pytest

from video_llama.processors.settings import ProcessorSettings


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_clips": 0}, r"num_clips is 0\. It must be positive"),
        ({"clip_seconds": float("nan")}, r"clip_seconds is nan\. It must be positive"),
        ({"audio_std": 0.0}, r"audio_std is 0\.0\. It must be positive"),
        ({"image_std": (0.2, 0.0, 0.2)}, r"image_std is \[0\.2, 0\.0, 0\.2\]\. Its values must be positive"),
    ],
)
def test_values_out_of_range(changes, message):
    with pytest.raises(ValueError, match=message):
        ProcessorSettings(**changes)
