"""docs/commands.md is the help of the commands as they are."""

from video_llama.cli.document import commands_markdown


def test_commands_document_is_up_to_date(repository):
    written = (repository / "docs" / "commands.md").read_text(encoding="utf-8")
    assert written == commands_markdown(), "run: python -m video_llama.cli.document > docs/commands.md"


def test_every_command_has_its_section():
    import typer.main

    from video_llama.cli import app

    text = commands_markdown()
    missing = [name for name in typer.main.get_command(app).commands if f"## `video-llama {name}`" not in text]
    assert missing == []
