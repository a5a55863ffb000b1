"""Run commands in this process or in one of their own, and the files that the commands use."""

import signal
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any

import av
import pytest

QUESTION = "What do you see?"
USED = "(weights: tiny;"
"""How the line on standard error starts that lists the inputs of an answer."""


def invoke(*arguments: Any, stdin: str | None = None) -> Any:
    """Run ``video-llama`` with these arguments in this process."""
    from typer.testing import CliRunner

    from video_llama.cli import app

    return CliRunner().invoke(app, [str(argument) for argument in arguments], input=stdin)


def assert_one_line(result: Any, message: str) -> None:
    """Exit code 2, one line on standard error that contains ``message``, and no output."""
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    assert len(result.stderr.splitlines()) == 1, result.stderr
    assert message in result.stderr


def start(*arguments: Any, **options: Any) -> subprocess.Popen:
    """Run ``video-llama`` in a process of its own, with its outputs as pipes."""
    command = [sys.executable, "-m", "video_llama", *map(str, arguments)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    # A shell that runs the tests in the background makes them ignore SIGINT, and child processes inherit that.
    return subprocess.Popen(command, text=True, preexec_fn=_accept_interrupts, **pipes, **options)


def _accept_interrupts() -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def corrupt_audio(source: Path, target: Path) -> Path:
    """A copy of an mp4 in which every byte of the audio packets is 255, which is not valid AAC."""
    data = bytearray(source.read_bytes())
    with av.open(str(source)) as container:
        for packet in container.demux(audio=0):
            if packet.size:
                data[packet.pos : packet.pos + packet.size] = b"\xff" * packet.size
    target.write_bytes(data)
    return target


@pytest.fixture(scope="session")
def clip(clips) -> Path:
    """A video of 3 seconds with a tone."""
    return clips["video"]


@pytest.fixture
def ask(model_path):
    """Run ``video-llama ask`` with the tiny model."""

    def run(*arguments: Any) -> Any:
        return invoke("ask", *arguments, "--model", model_path, "--device", "cpu", "--max-new-tokens", 8)

    return run


@pytest.fixture(scope="session")
def published(tmp_path_factory) -> Path:
    """A folder of small weights in the published layout."""
    from tests.factories.published_weights import write_published

    return write_published(tmp_path_factory.mktemp("published"))


@pytest.fixture
def eval_yaml(tmp_path, published) -> Path:
    """An evaluation YAML for these weights."""
    from tests.factories.published_weights import write_yaml

    return write_yaml(tmp_path / "eval.yaml", published)


@pytest.fixture(scope="session")
def training_clips(tmp_path_factory) -> Path:
    """Four clips of the miniature's world with captions and questions."""
    from video_llama.miniature.dataset import write_dataset

    folder = tmp_path_factory.mktemp("training") / "data"
    write_dataset(folder, num_clips=4, seed=4, workers=1)
    return folder


@pytest.fixture(scope="session")
def training_base(tmp_path_factory) -> Path:
    """A tiny model folder with untrained branches."""
    from tests.factories.tokenizers import train_tokenizer
    from tests.training.conftest import write_base

    folder = tmp_path_factory.mktemp("base")
    return write_base(folder / "model", train_tokenizer(folder / "tokenizer.model"), dropout=0.0)


@pytest.fixture
def training_yaml(tmp_path, training_clips, training_base) -> Path:
    """The YAML of a run of a few seconds, in the folder of the test."""
    from tests.training.conftest import yaml_writer

    return yaml_writer(tmp_path, training_clips, training_base)()


@pytest.fixture(scope="session")
def training_run(tmp_path_factory, training_clips, training_base) -> Path:
    """The folder of a run of two steps."""
    from tests.training.conftest import yaml_writer
    from video_llama.training.run import train_from_config

    path = yaml_writer(tmp_path_factory.mktemp("run"), training_clips, training_base)()
    return train_from_config(path, max_steps=2)


@pytest.fixture
def page_of(repository):
    """Start a command, return the HTML of the page that it serves, and stop it as a service manager would."""
    pytest.importorskip("gradio", reason="gradio is not installed: pip install '.[demo]'")
    processes = []

    def fetch(*command) -> str:
        process = subprocess.Popen(
            [sys.executable, *map(str, command)], cwd=repository, stdout=subprocess.PIPE, text=True, bufsize=1
        )
        processes.append(process)
        url = process.stdout.readline().split()[0]
        with urllib.request.urlopen(url, timeout=240) as response:
            return response.read().decode()

    yield fetch
    for process in processes:
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=240) == 130
        process.stdout.close()
