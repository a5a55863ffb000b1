"""Settings of all tests: one thread, no network, GPU tests only with a GPU; and shared fixtures."""

import os
from pathlib import Path

# On two busy cores two threads are slower than one. Set before torch is imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import pytest
from hypothesis import settings

# A busy machine makes tests slow. pytest's timeout guards against hangs.
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
    """The folder of the golden media files, which are not part of the repository."""
    return _named_by("VIDEO_LLAMA_MEDIA")


@pytest.fixture(scope="session")
def llama_tokenizer() -> Path:
    """LLaMA's SentencePiece model, which is not part of the repository."""
    return _named_by("VIDEO_LLAMA_TOKENIZER")


def _named_by(variable: str) -> Path:
    value = os.environ.get(variable)
    if not value:
        pytest.skip(f"{variable} is not set")
    path = Path(value)
    if not path.exists():
        pytest.fail(f"{variable} names {value}, which does not exist")
    return path


# With this seed, the greedy answers of the tiny model differ between questions and between media.
SEED = 3


@pytest.fixture(scope="session")
def model_path(tmp_path_factory) -> Path:
    """The folder of a tiny random model. Its manifest lists no untrained parts, so that the model answers."""
    from tests.factories.models import make_folder

    return make_folder(tmp_path_factory.mktemp("models") / "tiny", seed=SEED)


@pytest.fixture(scope="session")
def assistant(model_path):
    import video_llama

    return video_llama.load(model_path, device="cpu")


@pytest.fixture(scope="session")
def clips(tmp_path_factory) -> dict[str, Path]:
    """One file of each kind: videos with and without sound, a sound file, an image, a folder of frames."""
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
