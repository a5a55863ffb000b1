"""A tiny random model and real media files, for all who put it to use."""

from pathlib import Path

import numpy as np
import pytest

from tests.factories.models import write_media
from tests.factories.talkative import make_talkative_folder

SEED = 3


@pytest.fixture(scope="session")
def model_path(tmp_path_factory) -> Path:
    """A folder of a tiny random model. Its manifest calls it trained, so that it answers: the tests are about how."""
    return make_talkative_folder(tmp_path_factory.mktemp("models") / "tiny", seed=SEED)


@pytest.fixture(scope="session")
def assistant(model_path):
    import video_llama

    return video_llama.load(model_path, device="cpu")


@pytest.fixture(scope="session")
def clips(tmp_path_factory) -> dict[str, Path]:
    """A video with sound, one without, a sound and an image."""
    return write_media(tmp_path_factory.mktemp("clips"), np.random.default_rng(0))
