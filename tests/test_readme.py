"""The README's Python and commands run, and give the answers that its readers expect."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.fixture(scope="module")
def readme() -> str:
    return (Path(__file__).resolve().parent.parent / "README.md").read_text(encoding="utf-8")


def section(text: str, heading: str) -> str:
    return text.split(f"## {heading}\n")[1].split("\n## ")[0]


def code_block(text: str, language: str = "") -> str:
    return text.split(f"```{language}\n")[1].split("```")[0]


def run(arguments: list[str], folder: Path, stdin: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(arguments, cwd=folder, input=stdin, capture_output=True, text=True, timeout=120, check=False)


def test_python(readme: str, repository: Path) -> None:
    done = run([sys.executable, "-c", code_block(section(readme, "Python"), "python")], repository)
    assert done.returncode == 0, done.stderr
    assert "yellow square moves left" in done.stdout
    assert "a low hum, the sound of a circle" in done.stdout


def test_transformers(readme: str, repository: Path) -> None:
    """The standard program prints the answer of ``Chat.ask``, without other lines."""
    code = section(readme, "Python").split("```python\n")[2].split("```")[0]
    done = run([sys.executable, "-c", code], repository)
    assert done.returncode == 0, done.stderr
    clip = "examples/square_with_hum.mp4"
    ask = f"import video_llama; print(video_llama.load().chat({clip!r}).ask('What happens in the video?').text)"
    assert done.stdout == run([sys.executable, "-c", ask], repository).stdout


def test_command_line(readme: str, repository: Path) -> None:
    commands = [shlex.split(line)[1:] for line in code_block(section(readme, "Command line")).splitlines()]
    assert len(commands) >= 4
    for command in commands:
        done = run([sys.executable, "-m", "video_llama", *command], repository, stdin="What do you see?\n/quit\n")
        assert done.returncode == 0, f"{command}: {done.stderr}"
        assert done.stdout.strip()


@pytest.mark.parametrize(
    "heading", ["Published weights", "Fine-tune on your videos", "Command line", "Python", "Server"]
)
def test_newcomers_find_a_section_from_the_top(readme: str, heading: str) -> None:
    top = readme.split("\n## ")[0]
    anchor = heading.lower().replace(" ", "-")
    assert f"](#{anchor})" in top
    assert re.search(rf"^## {heading}$", readme, re.MULTILINE)
