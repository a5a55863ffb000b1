"""train.py, demo_video.py and demo_audiovideo.py, with the flags of the original Video-LLaMA."""

import subprocess
import sys
from pathlib import Path

import pytest

from video_llama.cli.scripts import run_demo_script, run_train_script


@pytest.fixture
def config(model_path, tmp_path) -> Path:
    path = tmp_path / "eval.yaml"
    path.write_text(f"model:\n  pretrained: {model_path}\n", encoding="utf-8")
    return path


@pytest.fixture
def error_of(monkeypatch, capsys):
    """Run a script's function with flags; it must exit with 2 and print only an error, which is returned."""

    def run(function, *flags) -> str:
        monkeypatch.setattr(sys, "argv", ["script.py", *map(str, flags)])
        with pytest.raises(SystemExit) as exit_:
            function()
        assert exit_.value.code == 2
        captured = capsys.readouterr()
        assert captured.out == ""
        return captured.err

    return run


@pytest.mark.slow
@pytest.mark.parametrize(("script", "with_audio"), [("demo_video.py", False), ("demo_audiovideo.py", True)])
def test_demo_scripts(page_of, config, script, with_audio):
    page = page_of(script, "--cfg-path", config, "--device", "cpu")
    assert "Random weights of a test" in page
    assert ("videos, images and audio" in page) == with_audio


class TestDemoErrors:
    @pytest.fixture
    def run(self, error_of, config):
        def run_with(*flags) -> str:
            return error_of(lambda: run_demo_script("A demo.", with_audio=False), "--cfg-path", config, *flags)

        return run_with

    def test_gpu_that_does_not_exist(self, run):
        assert "--gpu-id is 99, but this machine has" in run("--gpu-id", "99")
        assert "Use --device cpu instead." in run("--gpu-id", "99")

    def test_gpu_and_device(self, run):
        assert "--gpu-id and --device cannot be combined" in run("--gpu-id", "0", "--device", "cpu")

    def test_missing_config(self, run):
        assert run("--cfg-path", "none.yaml").startswith("ConfigError: none.yaml")

    def test_unknown_option(self, run):
        assert "model.ckptt=x: unknown key. Did you mean ckpt?" in run("--device", "cpu", "--options", "model.ckptt=x")


class TestTrain:
    def test_missing_config(self, error_of):
        error = error_of(lambda: run_train_script("Train."), "--cfg-path", "none.yaml")
        assert error.startswith("ConfigError: none.yaml")
        assert len(error.splitlines()) == 1

    def test_debug_shows_the_traceback(self, error_of):
        error = error_of(lambda: run_train_script("Train."), "--cfg-path", "none.yaml", "--debug")
        assert "Traceback (most recent call last)" in error

    def test_run(self, training_yaml, monkeypatch):
        flags = [
            "--cfg-path",
            str(training_yaml),
            "--max-steps",
            "1",
            "--options",
            "run.seed=3",
            "run.cache_features=false",
        ]
        monkeypatch.setattr(sys, "argv", ["train.py", *flags])
        run_train_script("Train.")
        assert len((training_yaml.parent / "run" / "metrics.jsonl").read_text().splitlines()) == 1


@pytest.mark.parametrize("script", ["train.py", "demo_video.py", "demo_audiovideo.py"])
def test_help(script, repository):
    run = subprocess.run([sys.executable, repository / script, "--help"], capture_output=True, text=True, check=True)
    assert "--cfg-path CONFIG" in run.stdout
    assert "--options KEY=VALUE [KEY=VALUE ...]" in run.stdout
