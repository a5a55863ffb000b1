"""``video-llama chat``: turns from a pipe, the commands of the chat, and editing lines in a terminal."""

import json
import os
import pty
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from tests.cli.conftest import QUESTION, USED, invoke
from tests.factories.media import write_wav
from tests.factories.models import NOTICE

TONE = 0.5 * np.sin(np.arange(3 * 16000) * 0.05).astype(np.float32)


class TestChat:
    @pytest.fixture
    def chat(self, model_path):
        def run(lines, *files):
            settings = ("--model", model_path, "--device", "cpu", "--max-new-tokens", 8)
            return invoke("chat", *files, *settings, stdin="\n".join(lines) + "\n")

        return run

    def test_turns_through_a_pipe(self, chat, clip, ask):
        result = chat([QUESTION, "", "What do you hear?", "/quit", "never read"], clip)
        assert result.exit_code == 0
        assert result.stdout.startswith(ask(clip, QUESTION).stdout)
        assert result.stderr.count(USED) == 2
        assert result.stderr.startswith(NOTICE)

    def test_commands(self, chat, clip, tmp_path):
        saved = tmp_path / "talk.json"
        sound = write_wav(tmp_path / "tone.wav", TONE)
        lines = [
            "/help",
            f"/video {clip}",
            f"/audio {sound}",
            QUESTION,
            "/record",
            "/reset",
            QUESTION,
            f"/save {saved}",
        ]
        result = chat(lines)
        assert result.exit_code == 0, result.output
        assert "/save FILE" in result.stdout
        [answer] = json.loads(saved.read_text(encoding="utf-8"))
        assert [medium["kind"] for medium in answer["media"]] == ["video", "audio"]
        assert f'"source": "{sound}"' in result.stdout

    def test_image_command(self, chat, tmp_path):
        Image.new("RGB", (30, 20), "red").save(tmp_path / "red.png")
        result = chat([f"/image {tmp_path / 'red.png'}", QUESTION])
        assert "1 image" in result.stderr

    def test_errors_do_not_end_the_chat(self, chat, clip):
        result = chat(["/record", "/dance", "/video", "/video none.mp4", "/save /no/such/folder/x", QUESTION], clip)
        assert result.exit_code == 2
        kinds = [line.partition(":")[0] for line in result.stderr.splitlines()[1:-1]]
        assert kinds == ["ValueError", "ValueError", "ValueError", "MediaError", "FileNotFoundError"]
        assert result.stderr.splitlines()[-1].startswith(USED)


@pytest.mark.slow
def test_arrow_up_recalls_the_previous_line(model_path):
    controller, terminal = pty.openpty()
    command = [sys.executable, "-m", "video_llama", "chat", "--model", str(model_path), "--device", "cpu"]
    process = subprocess.Popen(
        [*command, "--max-new-tokens", "3"], stdin=terminal, stdout=terminal, stderr=terminal, close_fds=True
    )
    os.close(terminal)
    shown = ""

    def read_until(text: str, count: int) -> None:
        nonlocal shown
        while shown.count(text) < count:
            shown += os.read(controller, 4096).decode(errors="replace")

    read_until("/help for the list of commands.", 1)
    os.write(controller, b"What do you see?\n")
    read_until("(weights: tiny", 1)
    os.write(controller, b"\x1b[A\n")
    read_until("(weights: tiny", 2)
    assert shown.count("What do you see?") >= 2
    os.write(controller, b"/quit\n")
    assert process.wait(timeout=240) == 0
    os.close(controller)
