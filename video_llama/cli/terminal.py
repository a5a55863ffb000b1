"""``video-llama chat FILE...``: turns in the terminal, streamed; the same from a pipe, a line a turn."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from video_llama.cli import options
from video_llama.cli.ask import rests_on
from video_llama.cli.reporting import EXIT_ERROR, report
from video_llama.errors import VideoLlamaError

if TYPE_CHECKING:
    from video_llama.chat import Chat

PROMPT = "> "
HELP = """\
/video FILE    show a video (and play its sound)      /record       print what the last answer rests on, as JSON
/image FILE    show an image                          /save FILE    write every answer and its record, as JSON
/audio FILE    play a sound                           /reset        forget what was said, keep what was shown
/help          print this                             /quit         leave (so does the end of the input)
Everything else is a question. Ctrl-C stops an answer."""


def chat(
    files: Annotated[
        list[str] | None,
        typer.Argument(metavar="FILE...", help="Videos, images, sounds or folders of frames.", show_default=False),
    ] = None,
    model: options.Model = "miniature",
    overrides: options.Overrides = None,
    device: options.Device = None,
    dtype: options.Dtype = None,
    quantization: options.Quantization = None,
    low_resource: options.LowResource = False,
    device_map: options.DeviceMap = None,
    frames: options.NumFrames = None,
    fps: options.Fps = None,
    start: options.Start = None,
    end: options.End = None,
    times: options.Times = None,
    no_audio: options.NoAudio = False,
    require_audio: options.RequireAudio = False,
    beams: options.Beams = 1,
    temperature: options.Temperature = None,
    top_p: options.TopP = None,
    top_k: options.TopK = None,
    seed: options.Seed = None,
    repetition_penalty: options.RepetitionPenalty = 1.0,
    max_new_tokens: options.MaxNewTokens = None,
    debug: options.Debug = False,
) -> None:
    """Talk about files, turn by turn. /help lists what else can be typed.

    From a pipe every line is a turn, and the exit code is 2 if one of them failed.
    """
    decoding = options.decoding(
        num_beams=beams,
        temperature=temperature,
        top_p=top_p,
        top_k=top_k,
        seed=seed,
        repetition_penalty=repetition_penalty,
        max_new_tokens=max_new_tokens,
    )
    assistant = options.load_assistant(
        model, overrides, device, dtype, quantization=quantization, low_resource=low_resource, device_map=device_map
    )
    sampling = options.frame_sampling(assistant, frames, fps, start, end, times)
    session = assistant.chat(*files or [], frames=sampling, no_audio=no_audio, require_audio=require_audio)
    if assistant.notice:
        typer.echo(assistant.notice, err=True)
    terminal = Terminal(session, decoding, debug=debug)
    if sys.stdin.isatty():
        typer.echo("/help lists the commands.", err=True)
    terminal.run(_lines())
    if terminal.has_failed and not sys.stdin.isatty():
        raise typer.Exit(EXIT_ERROR)


def _lines() -> Iterator[str]:
    """What is typed, line by line, behind a prompt where somebody is there to see it."""
    is_terminal = sys.stdin.isatty()
    if is_terminal:
        _edit_lines()
    while True:
        try:
            yield input(PROMPT) if is_terminal else input()
        except EOFError:
            return


def _edit_lines() -> None:
    """Let the arrow keys move in the line and bring back earlier ones; importing readline is all that it takes."""
    with suppress(ImportError):  # Windows has none, and edits lines by itself
        importlib.import_module("readline")


class Terminal:
    """Takes lines, answers on standard output. An error is reported and the conversation goes on."""

    def __init__(self, chat: Chat, decoding: dict[str, Any], *, debug: bool = False) -> None:
        self._chat, self._decoding, self._debug = chat, decoding, debug
        self.has_failed = False
        self._commands: dict[str, Callable[[str], None]] = {
            "/help": lambda _: typer.echo(HELP),
            "/image": lambda path: self._add(path, "image"),
            "/video": lambda path: self._add(path, "video"),
            "/audio": lambda path: self._add(path, "audio"),
            "/record": lambda _: typer.echo(_as_json(self._last_answer())),
            "/save": self._save,
            "/reset": lambda _: self._chat.reset(),
        }

    def run(self, lines: Iterator[str]) -> None:
        """Take lines until they end, or /quit."""
        for line in lines:
            text = line.strip()
            if text == "/quit":
                return
            if text:
                self._take(text)

    def _take(self, text: str) -> None:
        word, _, rest = text.partition(" ")
        try:
            if not word.startswith("/"):
                self._answer(text)
            elif word in self._commands:
                self._commands[word](rest.strip())
            else:
                raise ValueError(f"There is no command {word}. /help lists those there are.")
        except (VideoLlamaError, ValueError, OSError) as error:
            if isinstance(error, BrokenPipeError):
                raise
            self.has_failed = True
            report(error, debug=self._debug)

    def _answer(self, question: str) -> None:
        stream = self._chat.stream(question, **self._decoding)
        try:
            for piece in stream:
                typer.echo(piece, nl=False)
                sys.stdout.flush()
        except KeyboardInterrupt:
            stream.close()
        typer.echo()
        if stream.answer is not None:
            typer.echo(f"({rests_on(stream.answer)})", err=True)

    def _add(self, path: str, kind: Any) -> None:
        if not path:
            raise ValueError(f"/{kind} needs the name of a file.")
        self._chat.add(path, kind)
        typer.echo(f"Added {path}.", err=True)

    def _last_answer(self) -> Any:
        if not self._chat.answers:
            raise ValueError("There is no answer yet. Ask something first.")
        return self._chat.answers[-1].as_dict()

    def _save(self, path: str) -> None:
        if not path:
            raise ValueError("/save needs the name of a file.")
        Path(path).write_text(_as_json([answer.as_dict() for answer in self._chat.answers]) + "\n", encoding="utf-8")
        typer.echo(f"Saved {path}.", err=True)


def _as_json(value: Any) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False)
