"""Fixtures: a tiny model that generates long answers, media files, the running demo, and a headless Chromium."""

import shutil
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import video_llama
from tests.factories.media import grey_bomb, write_video, write_wav
from tests.factories.models import make_talkative_folder
from video_llama.apps.demo.serving import running_demo
from video_llama.apps.media.limits import MEBIBYTE, MediaLimits
from video_llama.apps.media.reader import MediaReader

LIMITS = MediaLimits(media_workers=1, media_worker_bytes=512 * MEBIBYTE)
CONTEXT_LENGTH = 65536
"""Long enough that an answer does not end before it is stopped."""

CHROMIUM_FLAGS = (
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
    *("--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"),
)
TONE = 0.5 * np.sin(np.arange(3 * 16000) * 0.05).astype(np.float32)


@pytest.fixture(scope="session")
def talkative(tmp_path_factory):
    """A model that never generates the end-of-sequence token."""
    text = dict(max_position_embeddings=CONTEXT_LENGTH)
    path = tmp_path_factory.mktemp("models") / "talkative"
    return video_llama.load(make_talkative_folder(path, seed=2, text_config=text), device="cpu")


@pytest.fixture(scope="session")
def media(tmp_path_factory) -> dict[str, Path]:
    """Two videos with audio, one without, an audio file, a truncated video, an image and one that is too large."""
    folder = tmp_path_factory.mktemp("media")
    rng = np.random.default_rng(0)
    files = {
        "first": write_video(folder / "first.mp4", rng, seconds=3, tone=TONE),
        "second": write_video(folder / "second.mp4", rng, seconds=2, tone=TONE),
        "silent": write_video(folder / "silent.mp4", rng, seconds=2),
        "tone": write_wav(folder / "tone.wav", TONE),
        "broken": folder / "broken.mp4",
        "bomb": folder / "bomb.png",
        "image": folder / "image.png",
    }
    Image.fromarray(rng.integers(0, 255, (1200, 900, 3), dtype=np.uint8)).save(files["image"])
    files["bomb"].write_bytes(grey_bomb(7000))
    files["broken"].write_bytes(files["first"].read_bytes()[:2000])
    return files


@pytest.fixture(scope="module")
def reader(talkative):
    """A reader whose process is too small for the image ``bomb``."""
    with closing(MediaReader(talkative.engine, LIMITS)) as reader:
        yield reader


@pytest.fixture(scope="module")
def demo(talkative):
    """The running demo; skipped without gradio."""
    pytest.importorskip("gradio", reason="gradio is not installed: pip install '.[demo]'")
    with running_demo(talkative, is_greedy=True, limits=LIMITS) as running:
        yield running


@pytest.fixture(scope="module")
def chromium():
    """The Chromium of the system; the browsers of Playwright cannot be downloaded everywhere."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: pip install '.[dev]'")
    path = shutil.which("chromium") or shutil.which("google-chrome")
    if path is None:
        pytest.skip("Chromium is not installed: apt-get install chromium")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=path, args=CHROMIUM_FLAGS)
        yield browser
        browser.close()
