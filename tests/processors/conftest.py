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
