"""A tiny random model and real media files for the tests of the applications."""

from pathlib import Path

import numpy as np
import pytest

from tests.factories.media import write_media
from tests.factories.models import make_talkative_folder

SEED = 3


@pytest.fixture(scope="session")
def model_path(tmp_path_factory) -> Path:
    """A model folder with random weights. Its manifest marks it as trained, as untrained models are refused."""
    return make_talkative_folder(tmp_path_factory.mktemp("models") / "tiny", seed=SEED)


@pytest.fixture(scope="session")
def assistant(model_path):
    import video_llama

    return video_llama.load(model_path, device="cpu")


@pytest.fixture(scope="session")
def clips(tmp_path_factory) -> dict[str, Path]:
    """A video with audio, a video without audio, an audio file and an image."""
    return write_media(tmp_path_factory.mktemp("clips"), np.random.default_rng(0))
