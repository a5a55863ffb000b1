"""The help of every command as Markdown: ``python -m video_llama.cli.document > docs/commands.md``."""

import sys

NOTE = "<!-- Made by: python -m video_llama.cli.document > docs/commands.md -->\n\n"


def commands_markdown() -> str:
    """What docs/commands.md holds; a test compares the two."""
    from typer.cli import get_docs_for_click
    from typer.main import get_command

    from video_llama.cli import app

    command = get_command(app)
    context = command.make_context("video-llama", [], resilient_parsing=True)
    # typer's own `utils docs` passes such a context, too; its annotation names a subclass.
    text = get_docs_for_click(obj=command, ctx=context, name="video-llama")  # type: ignore[arg-type]
    return NOTE + text.strip() + "\n"


if __name__ == "__main__":
    sys.stdout.write(commands_markdown())
