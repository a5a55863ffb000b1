"""What happens when something on the page is pressed: the visitor's conversation moves on, and the page is told how.

Every handler returns (or yields) ``View``s: what changes on the page, in the order that ``page.py`` lists its outputs.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from html import escape
from pathlib import Path
from typing import Any, NamedTuple

import gradio as gr

from video_llama.apps.demo.pictures import media_html
from video_llama.apps.demo.visitors import Visitor, Visitors
from video_llama.chat import Answer
from video_llama.errors import VideoLlamaError

SAMPLING, GREEDY = "Drawn: another answer each time", "Likeliest: the same answer each time"
REASONS = {"closed": "stopped by you", "max_new_tokens": "cut: the longest answer allowed"}
"""Why an answer ended, where the page says so; the others ended by themselves."""

UPDATE_SECONDS = 0.05
"""Between two updates of a growing answer; a small model makes tokens faster than a browser can draw them."""

EMPTY_BOX: dict[str, Any] = {"text": "", "files": []}
Message = dict[str, Any]


class View(NamedTuple):
    """What changes on the page; ``gr.skip()`` is what stays."""

    messages: Any = gr.skip()
    box: Any = gr.skip()
    given: Any = gr.skip()
    record: Any = gr.skip()
    status: Any = ""
    stop: Any = gr.skip()


class Handlers:
    """The events of the page, for all visitors."""

    def __init__(self, visitors: Visitors) -> None:
        self._visitors = visitors
        self._messages: dict[str, list[Message]] = {}

    def attach(self, request: gr.Request, content: dict[str, Any]) -> None:
        """Keep files that were attached and not sent yet: they go when the visitor goes."""
        for path in content.get("files") or []:
            self._visitors.hold(request.session_hash, Path(path))

    def ask(self, request: gr.Request, content: dict[str, Any], *controls: Any) -> Iterator[View]:
        """Show the files that came with the question, then answer it."""
        name, question = request.session_hash, (content.get("text") or "").strip()
        yield View(status=note("Looking and listening …"))
        problems = self._show(name, [Path(path) for path in content.get("files") or []])
        visitor, messages = self._visitors[name], self._of(name)
        given = media_html(visitor.media)
        if problems or not question:
            status = alert(problems) if problems else note("Now ask a question about it." if visitor.media else "")
            yield View(list(messages), {"text": question, "files": []}, given, status=status)
            return
        yield View([*messages, said("user", question)], EMPTY_BOX, given, stop=gr.update(interactive=True))
        yield from self._answer(visitor, messages, question, controls)

    def _answer(
        self, visitor: Visitor, messages: list[Message], question: str, controls: Sequence[Any]
    ) -> Iterator[View]:
        before, asked = visitor.last_answer, said("user", question)
        unasked, stop = {"text": question, "files": []}, gr.update(interactive=False)
        try:
            for text in paced(visitor.answer(question, **decoding(*controls)), UPDATE_SECONDS):
                yield View([*messages, asked, said("assistant", text)], status=note("Answering …"))
        except (VideoLlamaError, ValueError) as error:
            yield View(list(messages), unasked, status=alert([plain(error)]), stop=stop)
            return
        answer = visitor.last_answer
        if answer is None or answer is before:
            yield View(list(messages), unasked, status=note("Stopped before the first word: not asked."), stop=stop)
            return
        messages += [asked, said("assistant", answer.text or "(The model answered with no words.)")]
        visitor.look()
        record, status = public_record(answer), note(summary(answer))
        yield View(list(messages), given=media_html(visitor.media), record=record, status=status, stop=stop)

    def show_example(self, request: gr.Request, path: str, question: str) -> Iterator[View]:
        """Put one of the shipped clips before the model, and a question into the box."""
        yield View(status=note("Looking and listening …"))
        name = request.session_hash
        problems = self._show(name, [Path(path)], is_upload=False)
        status = alert(problems) if problems else note("Shown. Send the question, or write another.")
        given = media_html(self._visitors[name].media)
        yield View(list(self._of(name)), {"text": question, "files": []}, given, status=status)

    def show_recording(self, request: gr.Request, path: str | None) -> View:
        """Put a camera's recording before the model."""
        if path is None:
            return View(status=alert(["There is no recording. Record one first."]))
        problems = self._show(request.session_hash, [Path(path)])
        status = alert(problems) if problems else note("Now ask a question about it.")
        return View(
            list(self._of(request.session_hash)),
            given=media_html(self._visitors[request.session_hash].media),
            status=status,
        )

    def stop(self, request: gr.Request) -> None:
        """End the answer under way; its handler then says so."""
        self._visitors[request.session_hash].stop()

    def forget(self, request: gr.Request) -> View:
        """Forget what was said; the media stay."""
        visitor = self._visitors[request.session_hash]
        visitor.forget()
        self._messages[request.session_hash] = [_file(medium.path) for medium in visitor.media]
        status = note("What was said is forgotten. The files are still there.")
        return View(list(self._of(request.session_hash)), record=None, status=status)

    def start_over(self, request: gr.Request) -> View:
        """Forget everything, and delete the visitor's uploads."""
        self._visitors[request.session_hash].start_over()
        self._visitors.release(request.session_hash)
        self._messages.pop(request.session_hash, None)
        return View([], EMPTY_BOX, media_html([]), None, note("A new conversation."))

    def set_sound(self, request: gr.Request, is_on: bool) -> View:
        """Hear, or no longer; what was shown is shown anew."""
        visitor = self._visitors[request.session_hash]
        refused = visitor.set_sound(is_on)
        self._messages[request.session_hash] = [_file(medium.path) for medium in visitor.media]
        status = note(f"Sound is {'on' if is_on else 'off'}. The conversation begins again, with the same files.")
        if refused:
            status = alert([plain(error, path) for path, error in refused])
        return View(list(self._of(request.session_hash)), given=media_html(visitor.media), record=None, status=status)

    def leave(self, request: gr.Request) -> None:
        """The visitor has closed the page."""
        self._visitors.leave(request.session_hash)
        self._messages.pop(request.session_hash, None)

    def _of(self, name: str) -> list[Message]:
        return self._messages.setdefault(name, [])

    def _show(self, name: str, paths: Sequence[Path], *, is_upload: bool = True) -> list[str]:
        """Show files; returns what was wrong with those that could not be."""
        problems = []
        for path in paths:
            if is_upload:
                self._visitors.hold(name, path)
            try:
                self._visitors[name].show(path)
                self._of(name).append(_file(path))
            except (VideoLlamaError, ValueError) as error:
                problems.append(plain(error, path))
        return problems


def paced(texts: Iterator[str], seconds: float) -> Iterator[str]:
    """Leave out each text that comes sooner than ``seconds`` after the one before that was not."""
    last = -math.inf
    for text in texts:
        now = time.monotonic()
        if now - last >= seconds:
            last = now
            yield text


def decoding(
    choice: str,
    temperature: float,
    top_p: float,
    top_k: float,
    num_beams: float,
    max_new_tokens: float,
    seed: str,
) -> dict[str, Any]:
    """The page's controls as the fields of ``Decoding``; the sampling ones count only where answers are drawn.

    Raises ValueError for a seed that is no whole number.
    """
    settings: dict[str, Any] = {"num_beams": int(num_beams), "max_new_tokens": int(max_new_tokens)}
    if choice == SAMPLING:
        settings |= {"temperature": temperature, "top_p": top_p, "top_k": int(top_k)}
        if seed.strip():
            settings["seed"] = _whole_number(seed)
    return settings


def _whole_number(seed: str) -> int:
    try:
        return int(seed)
    except ValueError as error:
        raise ValueError(f"The seed is {seed!r}. Give a whole number, or leave it empty.") from error


def said(role: str, text: str) -> Message:
    """A turn as the chat window takes it, which reads text as HTML."""
    return {"role": role, "content": escape(text, quote=False)}


def _file(path: Path) -> Message:
    return {"role": "user", "content": {"path": str(path), "alt_text": path.name}}


def note(text: str) -> str:
    """A line that tells how things stand, read out by screen readers when there is time."""
    return f'<p role="status" class="vl-quiet">{escape(text)}</p>' if text else ""


def alert(problems: Sequence[str]) -> str:
    """What went wrong, read out at once."""
    return f'<p role="alert" class="vl-alert">{"<br>".join(escape(problem) for problem in problems)}</p>'


def plain(error: Exception, path: Path | None = None) -> str:
    """An error's message for a visitor: files by their names, and the page's switch in the place of a flag."""
    message = str(error).replace("(--no-audio)", "(switch the sound off)")
    return message if path is None else message.replace(str(path), path.name)


def public_record(answer: Answer) -> dict[str, Any]:
    """The record without the server's folders: media and weights by their names."""
    record = answer.as_dict()
    weights = {key: value for key, value in record["weights"].items() if key != "path"}
    media = [medium | {"source": Path(medium["source"]).name} for medium in record["media"]]
    return record | {"weights": weights, "media": media}


def summary(answer: Answer) -> str:
    """Tokens, seconds, why it ended, and the seed if there was one."""
    record = answer.record
    parts = [f"{record.tokens['generated']} tokens in {record.seconds['prefill'] + record.seconds['generate']:.1f} s"]
    if record.stop_reason in REASONS:
        parts.append(REASONS[record.stop_reason])
    if record.decoding["seed"] is not None:
        parts.append(f"seed {record.decoding['seed']}")
    if record.dropped_turns:
        parts.append(f"the first {record.dropped_turns} turns no longer fitted in")
    return "; ".join(parts)
