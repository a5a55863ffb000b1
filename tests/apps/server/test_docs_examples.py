"""The code blocks of docs/serving.md and docs/python.md run and print output; each document in one namespace."""

import json
import re
import shutil
import subprocess

import pytest

from video_llama.apps.server import ServerSettings

BLOCK = re.compile(r"```(\w+)\n(.*?)```", re.DOTALL)


def blocks(repository, document: str, language: str) -> list[str]:
    text = (repository / "docs" / document).read_text(encoding="utf-8")
    return [body for name, body in BLOCK.findall(text) if name == language]


def made_local(code: str, repository, server, model_path) -> str:
    """Return the code with the address, model and paths of this test."""
    code = code.replace("http://127.0.0.1:8000", server.url).replace("examples/", f"{repository}/examples/")
    return code.replace('load("miniature")', f'load("{model_path}", device="cpu")').replace("miniature", "tiny")


@pytest.mark.parametrize("document", ["serving.md", "python.md"])
def test_python_blocks(document, repository, server, model_path, capsys):
    codes, namespace = blocks(repository, document, "python"), {}
    assert codes
    for code in codes:
        exec(made_local(code, repository, server, model_path), namespace)
        assert capsys.readouterr().out.strip()


def test_streamed_answer_takes_five_lines(repository):
    first, second, _ = blocks(repository, "python.md", "python")
    assert len([line for line in first.splitlines() if line.strip()]) <= 5
    inside = second.partition("main():\n")[2].partition("\n\n")[0]
    assert len(inside.splitlines()) <= 5


@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")
def test_curl(repository, server, model_path):
    [code] = [body for body in blocks(repository, "serving.md", "sh") if body.startswith("curl")]
    run = subprocess.run(
        ["bash", "-c", made_local(code, repository, server, model_path)], capture_output=True, text=True, check=True
    )
    assert json.loads(run.stdout)["choices"][0]["message"]["role"] == "assistant"


def test_settings_named_in_the_documentation_exist(repository):
    text = (repository / "docs" / "serving.md").read_text(encoding="utf-8")
    named = set(re.findall(r"\b(?:max|media|request|shutdown|fetch)_(?:\w+)\b", text)) - {
        "max_tokens",
        "max_completion_tokens",
    }
    assert named - {"media_root"} <= set(ServerSettings.model_fields)
    assert {"max_rows", "max_queue"} <= named
