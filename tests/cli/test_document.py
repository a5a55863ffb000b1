"""docs/commands.md is generated from the commands, and the examples in it can be parsed."""

import shlex

import pytest

from video_llama.cli import COMMANDS, app
from video_llama.cli.document import commands_markdown

EXAMPLES = [example for commands in COMMANDS.values() for examples in commands.values() for example in examples]


def test_document_is_up_to_date(repository):
    written = (repository / "docs" / "commands.md").read_text(encoding="utf-8")
    assert written == commands_markdown(), "run: python -m video_llama.cli.document > docs/commands.md"


def test_each_command_has_a_section():
    from typer.main import get_command

    text = commands_markdown()
    missing = [name for name in get_command(app).commands if f"## `video-llama {name}`" not in text]
    assert missing == []


@pytest.mark.parametrize("example", EXAMPLES)
def test_examples_are_valid(example):
    from typer.main import get_command

    program, name, *arguments = shlex.split(example.partition(" < ")[0])
    group = get_command(app)
    parent = group.make_context(program, [name, *arguments])
    context = group.get_command(parent, name).make_context(name, arguments, parent=parent)
    assert not context.args
