"""The wheel contains everything that an installation needs, and answers in a fresh environment outside the checkout."""

import os
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

import video_llama

pytestmark = pytest.mark.slow

NEEDED = (
    "video_llama/py.typed",
    "video_llama/apps/demo/style.css",
    "video_llama/miniature/weights/model.safetensors",
    "video_llama/miniature/weights/familiarity.safetensors",
    "video_llama/miniature/weights/tokenizer.model",
    "video_llama/miniature/train_configs/visionbranch_stage1_pretrain.yaml",
    "video_llama/examples/square_with_hum.mp4",
)


def run(arguments: list[str], folder: Path) -> str:
    """Run a command in ``folder`` and return its output. Without PYTHONPATH, only installed packages are imported."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        arguments, cwd=folder, env=environment, capture_output=True, text=True, timeout=250, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(repository, tmp_path_factory) -> Path:
    """The wheel of this checkout, built with the installed hatchling (no network)."""
    pytest.importorskip("build")
    pytest.importorskip("hatchling")
    folder = tmp_path_factory.mktemp("dist")
    run([sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), "."], repository)
    [path] = folder.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory) -> Path:
    """The scripts of a fresh environment with the wheel; its dependencies are those of the current environment."""
    folder = tmp_path_factory.mktemp("fresh") / "venv"
    venv.create(folder, with_pip=False, symlinks=True)
    python = folder / "bin" / "python"
    run(
        [sys.executable, "-m", "pip", "--python", str(python), "install", "--no-deps", "--no-index", str(wheel)], folder
    )
    [packages] = (folder / "lib").glob("python*/site-packages")
    # The folder's own .pth files, such as that of an editable install, are not read from here.
    (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n", encoding="utf-8")
    return python.parent


def test_contents(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    assert [name for name in NEEDED if name not in names] == []
    assert not [name for name in names if name.startswith(("tests/", "docs/", "benchmarks/"))]


def test_runs_outside_the_checkout(installed, tmp_path):
    where = run([str(installed / "python"), "-c", "import video_llama; print(video_llama.__file__)"], tmp_path)
    assert Path(where.strip()).is_relative_to(installed.parent)
    assert video_llama.__version__ in run([str(installed / "video-llama"), "--version"], tmp_path)
    example = Path(where.strip()).parent / "examples" / "square_with_hum.mp4"
    answer = run([str(installed / "video-llama"), "ask", str(example), "What happens in the video?"], tmp_path)
    assert "yellow square moves left" in answer
