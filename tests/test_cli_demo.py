"""Starting the web page: the command, the reference's two scripts, and what is said where it cannot start."""

import signal
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from tests.factories.models import make_folder
from video_llama.errors import MissingExtraError


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return make_folder(tmp_path_factory.mktemp("models") / "tiny", seed=3)


@pytest.fixture
def config(model, tmp_path) -> Path:
    path = tmp_path / "eval.yaml"
    path.write_text(f"model:\n  pretrained: {model}\n", encoding="utf-8")
    return path


@pytest.fixture
def page_of(repository):
    """Start a command, return the HTML of the page that it serves, and end it as a service manager would."""
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


@pytest.mark.slow
class TestServing:
    def test_command(self, page_of, model):
        page = page_of("-m", "video_llama", "demo", "--model", model, "--device", "cpu", "--only-vision")
        assert "Random weights of a test" in page
        assert "listens to it" not in page

    @pytest.mark.parametrize(("script", "listens"), [("demo_video.py", False), ("demo_audiovideo.py", True)])
    def test_reference_scripts(self, page_of, config, script, listens):
        page = page_of(script, "--cfg-path", config, "--device", "cpu")
        assert "Random weights of a test" in page
        assert ("listens to it" in page) == listens


class TestErrors:
    @pytest.fixture
    def run(self, monkeypatch, capsys, config):
        from video_llama.cli.demo import run_reference_demo

        def run_with(*flags) -> str:
            monkeypatch.setattr(sys, "argv", ["demo_video.py", "--cfg-path", str(config), *flags])
            assert run_reference_demo("A demo.", with_sound=False) == 2
            captured = capsys.readouterr()
            assert captured.out == ""
            return captured.err

        return run_with

    def test_a_gpu_that_is_not_there(self, run):
        assert "--gpu-id is 99 and this machine has" in run("--gpu-id", "99")
        assert "Give --device cpu instead." in run("--gpu-id", "99")

    def test_gpu_and_device(self, run):
        assert "--gpu-id and --device are given" in run("--gpu-id", "0", "--device", "cpu")

    def test_missing_config(self, run):
        assert run("--cfg-path", "none.yaml").startswith("ConfigError: none.yaml")

    def test_unknown_option(self, run):
        assert "model.ckptt=x: unknown key. Did you mean ckpt?" in run("--device", "cpu", "--options", "model.ckptt=x")

    def test_a_port_that_is_taken(self, model):
        pytest.importorskip("gradio", reason="gradio is not installed: pip install '.[demo]'")
        import video_llama
        from video_llama.apps.demo.serving import running_demo

        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            taken.listen()
            port = taken.getsockname()[1]
            demo = running_demo(video_llama.load(model, device="cpu"), port=port)
            with pytest.raises(ValueError, match=rf"Port {port} of 127\.0\.0\.1 cannot be used.*--port"), demo:
                pass

    def test_without_gradio(self, model, monkeypatch):
        import video_llama
        from video_llama.apps.demo.serving import running_demo

        for name in [name for name in sys.modules if name.startswith("video_llama.apps.demo.")]:
            monkeypatch.delitem(sys.modules, name)
        monkeypatch.setitem(sys.modules, "gradio", None)
        demo = running_demo(video_llama.load(model, device="cpu"))
        with pytest.raises(MissingExtraError, match=r"gradio is not installed.*video-llama\[demo\]"), demo:
            pass


@pytest.mark.slow
def test_arrow_up_brings_back_the_last_line_of_the_terminal(model):
    import os
    import pty

    controller, terminal = pty.openpty()
    command = [sys.executable, "-m", "video_llama", "chat", "--model", str(model), "--device", "cpu"]
    process = subprocess.Popen(
        [*command, "--max-new-tokens", "3"], stdin=terminal, stdout=terminal, stderr=terminal, close_fds=True
    )
    os.close(terminal)
    shown = ""

    def read_until(text: str, count: int) -> None:
        nonlocal shown
        while shown.count(text) < count:
            shown += os.read(controller, 4096).decode(errors="replace")

    read_until("/help lists the commands.", 1)
    os.write(controller, b"What do you see?\n")
    read_until("(weights: tiny", 1)
    os.write(controller, b"\x1b[A\n")
    read_until("(weights: tiny", 2)
    assert shown.count("What do you see?") >= 2
    os.write(controller, b"/quit\n")
    assert process.wait(timeout=240) == 0
    os.close(controller)
