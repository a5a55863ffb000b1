"""The README's words hold: its Python runs, its commands answer, its links lead somewhere."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

TOO_LONG = ("miniature evaluate",)  # minutes; tests/miniature/test_evaluation.py uses fewer clips


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


def test_command_line(readme: str, repository: Path) -> None:
    lines = code_block(section(readme, "Command line")).splitlines()
    commands = [shlex.split(line)[1:] for line in lines if not any(part in line for part in TOO_LONG)]
    assert len(commands) >= 4
    for command in commands:
        done = run([sys.executable, "-m", "video_llama", *command], repository, stdin="What do you see?\n/quit\n")
        assert done.returncode == 0, f"{command}: {done.stderr}"
        assert done.stdout.strip()


def test_links_lead_to_files(readme: str, repository: Path) -> None:
    targets = re.findall(r"\]\(([^)#]+)\)", readme)
    assert targets
    missing = [target for target in targets if "://" not in target and not (repository / target).exists()]
    assert not missing


def test_make_targets_exist(readme: str, repository: Path) -> None:
    makefile = (repository / "Makefile").read_text(encoding="utf-8")
    for target in re.findall(r"^make (\w+)", readme, re.MULTILINE):
        assert f"\n{target}:" in makefile
