"""Settings of every test: one thread, no network, no GPU unless there is one, and the folders that some tests need."""

import os
from pathlib import Path

# On two busy cores two threads are slower than one. Set before torch is imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import pytest
from hypothesis import settings

# A loaded machine is not a slow test: pytest's own timeout guards against hangs.
settings.register_profile("video_llama", deadline=None)
settings.load_profile("video_llama")


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("gpu") is not None:
        import torch

        if not torch.cuda.is_available():
            pytest.skip("needs a CUDA device")


@pytest.fixture(scope="session")
def repository() -> Path:
    """The root of the checkout."""
    return Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def media_dir() -> Path:
    """The folder of the golden media files, which are not ours to ship."""
    return _named_by("VIDEO_LLAMA_MEDIA")


@pytest.fixture(scope="session")
def llama_tokenizer() -> Path:
    """LLaMA's sentencepiece file, which is not ours to ship."""
    return _named_by("VIDEO_LLAMA_TOKENIZER")


def _named_by(variable: str) -> Path:
    value = os.environ.get(variable)
    if not value:
        pytest.skip(f"{variable} is not set")
    path = Path(value)
    if not path.exists():
        pytest.fail(f"{variable} names {value}, which does not exist")
    return path


# With these the tiny model's greedy answers are some words long and differ from question to question.
SEED = 3


@pytest.fixture(scope="session")
def model_path(tmp_path_factory) -> Path:
    """A folder of a tiny random model. Its manifest calls it trained, so that it answers: the tests are about how."""
    from tests.factories.models import make_folder

    return make_folder(tmp_path_factory.mktemp("models") / "tiny", seed=SEED)


@pytest.fixture(scope="session")
def assistant(model_path):
    import video_llama

    return video_llama.load(model_path, device="cpu")


@pytest.fixture(scope="session")
def clips(tmp_path_factory) -> dict[str, Path]:
    """One file of each kind: video with and without sound, sound alone, an image, a folder of frames."""
    import numpy as np
    from PIL import Image

    from tests.factories.media import write_media

    folder, rng = tmp_path_factory.mktemp("clips"), np.random.default_rng(0)
    paths = write_media(folder, rng) | {"frames": folder / "frames"}
    paths["frames"].mkdir()
    for index in range(5):
        picture = rng.integers(0, 256, (40, 60, 3), dtype=np.uint8)
        Image.fromarray(picture).save(paths["frames"] / f"{index}.png")
    return paths
