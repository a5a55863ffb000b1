"""A tiny whole model with random weights, written as a model folder, and real media files to ask it about."""

from pathlib import Path

import numpy as np
import pytest

from tests.chat.making import make_folder, write_media

# With these the tiny model's greedy answers are some words long and differ from question to question.
SEED = 3


@pytest.fixture(scope="session")
def model_path(tmp_path_factory) -> Path:
    """A folder of a tiny random model. Its manifest calls it trained, so that it answers: the tests are about how."""
    return make_folder(tmp_path_factory.mktemp("models") / "tiny", seed=SEED)


@pytest.fixture(scope="session")
def assistant(model_path):
    import video_llama

    return video_llama.load(model_path, device="cpu")


@pytest.fixture(scope="session")
def clips(tmp_path_factory) -> dict[str, Path]:
    """One file of each kind: video with and without sound, sound alone, an image, a folder of frames."""
    from PIL import Image

    folder, rng = tmp_path_factory.mktemp("clips"), np.random.default_rng(0)
    paths = write_media(folder, rng) | {"frames": folder / "frames"}
    paths["frames"].mkdir()
    for index in range(5):
        picture = rng.integers(0, 256, (40, 60, 3), dtype=np.uint8)
        Image.fromarray(picture).save(paths["frames"] / f"{index}.png")
    return paths
