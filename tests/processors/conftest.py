"""Media files of the tests of the inputs: made once a session, and the golden folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.factories.media import Clip, write_clip


class ClipMaker:
    """Makes a clip the first time that it is asked for."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __call__(self, name: str, clip: Clip) -> Path:
        path = self._folder / f"{name}.{clip.suffix}"
        return path if path.exists() else write_clip(path, clip)


@pytest.fixture(scope="session")
def make_clip(tmp_path_factory: pytest.TempPathFactory) -> ClipMaker:
    return ClipMaker(tmp_path_factory.mktemp("clips"))


@pytest.fixture(scope="session")
def plain_clip(make_clip: ClipMaker) -> Path:
    """60 frames of H.264 with B-frames and one keyframe."""
    return make_clip("plain", Clip(options={"g": "250", "bf": "3"}))


@pytest.fixture(scope="session")
def golden_audio(repository: Path) -> Path:
    """The folder that holds golden's audio.json and audio.safetensors."""
    return repository / "tests/golden/dev"


@pytest.fixture(scope="session")
def folders(model_path, tmp_path_factory):
    """A folder of each prompt format."""
    from tests.factories.models import make_folder

    llama2 = make_folder(tmp_path_factory.mktemp("llama2") / "tiny", prompt_template="llama2")
    return {"default": model_path, "llama2": llama2}


@pytest.fixture(scope="session")
def processors(folders):
    return {name: _processor(folder) for name, folder in folders.items()}


@pytest.fixture(scope="session")
def processor(processors):
    return processors["default"]


@pytest.fixture(scope="session")
def ours(model_path):
    from video_llama.chat import read_model_folder

    return read_model_folder(model_path)


def _processor(folder):
    from transformers import AutoProcessor

    import video_llama.auto  # noqa: F401

    return AutoProcessor.from_pretrained(folder)
