"""``video-llama chat [FILE]...``: a conversation in the terminal, or one line of standard input per turn."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from video_llama.cli.ask import show_warnings, used_inputs
from video_llama.cli.options import DecodingOptions, ModelOptions, SegmentOptions, json_text
from video_llama.cli.reporting import EXIT_ERROR, is_debug_on, report
from video_llama.errors import VideoLlamaError
from video_llama.log import shown_activities

if TYPE_CHECKING:
    from video_llama.chat import Chat, Decoding
    from video_llama.processors.media_file import MediaKind

PROMPT = "> "
HELP = """\
Type a question, or one of these commands:

  /video FILE   add a video, with its audio
  /image FILE   add an image
  /audio FILE   add an audio file
  /reset        clear the chat and keep the media
  /record       show the record of the last answer as JSON
  /save FILE    save all answers and their records as JSON
  /help         show this message
  /quit         exit (or press Ctrl-D)

Press Ctrl-C to stop an answer."""
HINT = "Type a question, or /help for the list of commands."


def chat(
    context: typer.Context,
    files: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[FILE]...", help="Videos, images, audio files or folders of frames.", show_default=False
        ),
    ] = None,
    *,
    segment: SegmentOptions,
    decoding: DecodingOptions,
    model: ModelOptions,
) -> None:
    """Chat about videos, images and audio in the terminal.

    Type /help in the chat for its commands. If standard input is not a terminal, each of its lines is one turn, and the
    exit code is 2 if a turn failed.
    """
    settings = decoding.settings()
    with shown_activities():
        assistant = model.load()
        session = assistant.chat(*files or [], **segment.media_fields(assistant.settings.num_frames))
    if assistant.notice:
        typer.echo(assistant.notice, err=True)
    terminal = Terminal(session, settings, debug=is_debug_on(context))
    if sys.stdin.isatty():
        typer.echo(HINT, err=True)
    terminal.run(_lines())
    if terminal.has_failed and not sys.stdin.isatty():
        raise typer.Exit(EXIT_ERROR)


def _lines() -> Iterator[str]:
    """Yield the lines of standard input; show a prompt if it is a terminal."""
    is_terminal = sys.stdin.isatty()
    if is_terminal:
        _enable_line_editing()
    while True:
        try:
            yield input(PROMPT) if is_terminal else input()
        except EOFError:
            return


def _enable_line_editing() -> None:
    """Enable arrow keys and history for ``input``; importing readline is sufficient."""
    with suppress(ImportError):  # not available on Windows, whose terminal edits lines itself
        importlib.import_module("readline")


class Terminal:
    """Answers lines of text on standard output. Errors are reported and do not end the chat."""

    def __init__(self, chat: Chat, decoding: Decoding, *, debug: bool = False) -> None:
        self._chat, self._decoding, self._debug = chat, decoding, debug
        self.has_failed = False
        self._commands: dict[str, Callable[[str], None]] = {
            "/help": lambda _: typer.echo(HELP),
            "/image": lambda path: self._add(path, "image"),
            "/video": lambda path: self._add(path, "video"),
            "/audio": lambda path: self._add(path, "audio"),
            "/record": lambda _: typer.echo(json_text(self._last_answer())),
            "/save": self._save,
            "/reset": lambda _: self._chat.reset(),
        }

    def run(self, lines: Iterator[str]) -> None:
        """Process lines until they end or one is /quit."""
        for line in lines:
            text = line.strip()
            if text == "/quit":
                return
            if text:
                with shown_activities():
                    self._process(text)

    def _process(self, text: str) -> None:
        word, _, rest = text.partition(" ")
        try:
            if not word.startswith("/"):
                self._answer(text)
            elif word in self._commands:
                self._commands[word](rest.strip())
            else:
                raise ValueError(f"Unknown command {word}. Type /help for the list of commands.")
        except (VideoLlamaError, ValueError, OSError) as error:
            if isinstance(error, BrokenPipeError):
                raise
            self.has_failed = True
            report(error, debug=self._debug)

    def _answer(self, question: str) -> None:
        stream = self._chat.stream(question, self._decoding)
        show_warnings(self._chat)
        try:
            for piece in stream:
                typer.echo(piece, nl=False)
                sys.stdout.flush()
        except KeyboardInterrupt:
            stream.close()
        typer.echo()
        if stream.answer is not None:
            typer.echo(f"({used_inputs(stream.answer)})", err=True)

    def _add(self, path: str, kind: MediaKind) -> None:
        if not path:
            raise ValueError(f"/{kind} needs the path of a file.")
        self._chat.add(path, kind)
        typer.echo(f"Added {path}.", err=True)

    def _last_answer(self) -> dict[str, Any]:
        if not self._chat.answers:
            raise ValueError("No answer yet. Ask a question first.")
        return self._chat.answers[-1].as_dict()

    def _save(self, path: str) -> None:
        if not path:
            raise ValueError("/save needs the path of a file.")
        Path(path).write_text(json_text([answer.as_dict() for answer in self._chat.answers]) + "\n", encoding="utf-8")
        typer.echo(f"Saved {path}.", err=True)
