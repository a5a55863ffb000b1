"""How commands end: one line for an error, the traceback with --debug, no output for Ctrl-C or a closed pipe."""

import json
import os
import signal
import subprocess
import sys

import pytest

from tests.cli.conftest import QUESTION, assert_one_line, invoke, start
from tests.factories.models import NOTICE
from video_llama.cli.reporting import reported_errors
from video_llama.errors import ConfigError


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("ask",), "UsageError: Missing argument '[FILE]... QUESTION'. See: "),
        (("ask", "x", "--frames", "many"), "Invalid value for '--frames'"),
        (("ask", "--colour"), "No such option: --colour"),
        (("--colour",), "No such option: --colour"),
        (("answer",), "No such command 'answer'."),
        (("miniature", "evaluate", "--num-clips", 0), "Invalid value for '--num-clips'"),
    ],
)
def test_bad_usage(arguments, message):
    assert_one_line(invoke(*arguments), message)


def test_debug_shows_the_traceback(ask, tmp_path):
    result = ask(tmp_path / "none.mp4", QUESTION, "--debug")
    assert result.exit_code == 2
    assert "Traceback (most recent call last)" in result.stderr
    assert result.stderr.splitlines()[-1].startswith("MediaError: ")


def test_debug_before_the_command(model_path, tmp_path):
    result = invoke("--debug", "ask", tmp_path / "none.mp4", QUESTION, "--model", model_path)
    assert "Traceback (most recent call last)" in result.stderr


@pytest.mark.slow  # each starts Python and loads torch
class TestEnds:
    """In a process of its own."""

    def test_interrupt_is_quiet(self, model_path):
        process = start("chat", "--model", model_path, "--device", "cpu", stdin=subprocess.PIPE)
        assert NOTICE in process.stderr.readline()  # it is loaded and waits for a line
        process.send_signal(signal.SIGINT)
        stdout, stderr = process.communicate(timeout=240)
        assert (process.returncode, stdout, stderr) == (130, "", "")

    def test_broken_pipe_is_quiet(self, clip):
        reader, writer = os.pipe()
        os.close(reader)
        command = [sys.executable, "-m", "video_llama", "inspect", str(clip)]
        process = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, text=True, check=False, timeout=240)
        os.close(writer)
        assert (process.returncode, process.stderr) == (141, "")

    def test_whole_command_is_clean(self, model_path, clip):
        """No bar, warning or notice of a library on either stream."""
        process = start(
            "ask", clip, QUESTION, "--model", model_path, "--device", "cpu", "--json", "--max-new-tokens", 4
        )
        stdout, stderr = process.communicate(timeout=240)
        assert process.returncode == 0
        assert json.loads(stdout)["question"] == QUESTION
        assert stderr == ""


def test_version():
    from video_llama import __version__

    assert invoke("--version").stdout == f"video-llama {__version__}\n"


@pytest.mark.parametrize(
    ("raised", "code", "shown"),
    [
        (ConfigError("a\n  b"), 2, "ConfigError: a b\n"),
        (OSError("disk full"), 2, "OSError: disk full\n"),
        (KeyboardInterrupt(), 130, ""),
    ],
)
def test_reported_errors(raised, code, shown, capsys):
    with pytest.raises(SystemExit) as exit_, reported_errors():
        raise raised
    captured = capsys.readouterr()
    assert (exit_.value.code, captured.out, captured.err) == (code, "", shown)


def test_bugs_keep_their_traceback():
    with pytest.raises(AssertionError), reported_errors():
        raise AssertionError
