"""Event handlers of the page.

Every handler returns (or yields) ``PageState``: the new values of the output components, in the order of
``page.py``.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from html import escape
from pathlib import Path
from typing import Any, NamedTuple

import gradio as gr

from video_llama.apps.demo.pictures import media_html
from video_llama.apps.demo.timeline import timeline_html
from video_llama.apps.demo.visitors import Visitor, Visitors
from video_llama.chat import Answer, Decoding
from video_llama.errors import VideoLlamaError
from video_llama.processors.windows import WindowPlan

SAMPLING, GREEDY = "Sampling", "Greedy"
REASONS = {"closed": "stopped", "max_new_tokens": "maximum length reached"}
"""Stop reasons that the status line mentions."""

MAX_FILES = 8
"""Maximum number of files attached to one message."""

UPDATE_SECONDS = 0.05
"""Minimum time between two updates of a streamed answer. A small model is faster than the browser can render."""

SETTINGS_OF_OPTIONS = {
    "(--no-audio)": "(turn off audio in the settings)",
    "no_audio ignores sound. Remove one of the two.": "audio is turned off. Turn it on in the settings.",
}
"""Remedies in error messages, and the same remedies for visitors of the page."""

LOADING, GENERATING = "Processing media …", "Generating …"
TIMELINE, STOPPED_TIMELINE = "Answering each window …", "Timeline stopped."
NO_LONG_MEDIUM = "The conversation has no video or audio file. Add one, or choose an example."
NO_QUESTION = "The question is empty. Enter a question in the text box above."
ASK_ABOUT_IT = "Media added. Ask a question about it."
STOPPED_EARLY = "Stopped before the first token. The question is back in the text box."
FAILED = "Internal error. See the log of the server, then try again."

ChatbotMessage = dict[str, Any]


class PageState(NamedTuple):
    """New values of the output components. ``gr.skip()`` leaves a component unchanged."""

    messages: Any = gr.skip()
    box: Any = gr.skip()
    model_input: Any = gr.skip()
    record: Any = gr.skip()
    status: Any = ""
    stop: Any = gr.skip()
    timeline: Any = gr.skip()


class Handlers:
    """Event handlers for all visitors."""

    def __init__(self, visitors: Visitors) -> None:
        self._visitors = visitors

    def attach(self, request: gr.Request, content: dict[str, Any]) -> None:
        """Register files that are attached but not sent yet, so that they are deleted when the visitor leaves."""
        for path in (content.get("files") or [])[:MAX_FILES]:
            self._visitors.hold(request.session_hash, Path(path))

    def ask(self, request: gr.Request, content: dict[str, Any], *controls: Any) -> Iterator[PageState]:
        """Add the attached files to the conversation, then stream the answer to the question."""
        name, question = request.session_hash, (content.get("text") or "").strip()
        paths = [Path(path) for path in content.get("files") or []]
        yield PageState(status=status_html(LOADING if paths else GENERATING))
        problems = self._add(name, paths)
        visitor = self._visitors[name]
        messages = visitor.messages
        model_input = media_html(visitor.media)
        if problems or not question:
            status = alert_html(problems) if problems else status_html(ASK_ABOUT_IT if visitor.media else "")
            yield PageState(list(messages), box_value(question), model_input, status=status)
            return
        yield PageState(
            [*messages, text_message("user", question)],
            box_value(),
            model_input,
            status=status_html(GENERATING),
            stop=stop_button(is_running=True),
        )
        yield from self._answer(visitor, question, controls)

    def _answer(self, visitor: Visitor, question: str, controls: Sequence[Any]) -> Iterator[PageState]:
        messages = visitor.messages
        before, asked = visitor.last_answer, text_message("user", question)
        stop, generating = stop_button(is_running=False), status_html(GENERATING)
        try:
            for text in throttled(visitor.answer(question, decoding_of(*controls)), UPDATE_SECONDS):
                yield PageState([*messages, asked, answer_message(text, visitor.warnings)], status=generating)
        except (VideoLlamaError, ValueError) as error:
            yield PageState(list(messages), box_value(question), status=alert_html([error_text(error)]), stop=stop)
            return
        if visitor.messages is not messages:  # cleared meanwhile; the handler that did it set the status
            yield PageState(list(visitor.messages), status=gr.skip(), stop=stop)
            return
        answer = visitor.last_answer
        if answer is None or answer is before:
            yield PageState(list(messages), box_value(question), status=status_html(STOPPED_EARLY), stop=stop)
            return
        messages += [asked, answer_message(answer.text or "(empty answer)", answer.record.warnings)]
        yield PageState(list(messages), record=public_record(answer), status=status_html(summary(answer)), stop=stop)
        visitor.compute_attention()
        yield PageState(model_input=media_html(visitor.media), status=gr.skip())

    def make_timeline(
        self,
        request: gr.Request,
        content: dict[str, Any],
        window: float,
        stride: float | None,
        with_summary: bool,
        *controls: Any,
    ) -> Iterator[PageState]:
        """Add the attached files, then answer the question for each window of the last video or sound."""
        name, question = request.session_hash, (content.get("text") or "").strip()
        yield PageState(status=status_html(LOADING))
        problems = self._add(name, [Path(path) for path in content.get("files") or []])
        visitor = self._visitors[name]
        last = next((medium for medium in reversed(visitor.media) if medium.read.kind in ("video", "audio")), None)
        if last is None and not problems:
            problems = [NO_LONG_MEDIUM]
        elif not question and not problems:
            problems = [NO_QUESTION]
        shown = PageState(list(visitor.messages), box_value(question), media_html(visitor.media))
        if problems or last is None:
            yield shown._replace(status=alert_html(problems))
            return
        yield shown._replace(status=status_html(TIMELINE), stop=stop_button(is_running=True), timeline="")
        status = status_html(STOPPED_TIMELINE)
        try:
            plan = WindowPlan(window or 0, stride or None)
            answers = visitor.timeline(last, question, plan, decoding_of(*controls), with_summary=with_summary)
            for timeline, num_windows in answers:
                html = timeline_html(last.path, timeline, num_windows)
                yield PageState(status=status_html(TIMELINE), timeline=html)
                if len(timeline.windows) == num_windows:
                    status = status_html(f"Timeline of {num_windows} windows, {len(timeline.entries)} entries")
        except (VideoLlamaError, ValueError, OSError) as error:
            status = alert_html([error_text(error, last.path)])
        yield PageState(status=status, stop=stop_button(is_running=False))

    def fail(self) -> PageState:
        """Report an unexpected error of ``ask``; its traceback is in the log of the server."""
        return PageState(status=alert_html([FAILED]), stop=stop_button(is_running=False))

    def show_example(self, request: gr.Request, path: str, question: str) -> Iterator[PageState]:
        """Start a new conversation about one of the shipped clips and fill in the question."""
        name = request.session_hash
        yield PageState(status=status_html(LOADING))
        self._remove_media(name)
        problems = self._add(name, [Path(path)], is_upload=False)
        ready = "Example loaded. Send the question, or edit it first."
        yield PageState(
            list(self._messages_of(name)),
            box_value(question),
            media_html(self._visitors[name].media),
            None,
            alert_html(problems) if problems else status_html(ready),
        )

    def use_recording(self, request: gr.Request, path: str | None) -> PageState:
        """Add a webcam recording to the conversation."""
        if path is None:
            return PageState(status=alert_html(["No recording found. Record a clip first."]))
        name = request.session_hash
        problems = self._add(name, [Path(path)])
        status = alert_html(problems) if problems else status_html(ASK_ABOUT_IT)
        model_input = media_html(self._visitors[name].media)
        return PageState(list(self._messages_of(name)), model_input=model_input, status=status)

    def stop(self, request: gr.Request) -> None:
        """Stop the current answer. ``ask`` then updates the page."""
        self._visitors[request.session_hash].stop()

    def clear_chat(self, request: gr.Request) -> PageState:
        """Remove all questions and answers; keep the media."""
        name = request.session_hash
        self._visitors[name].clear_chat()
        self._reset_messages(name)
        status = status_html("Chat cleared. The media are still part of the conversation.")
        return PageState(list(self._messages_of(name)), record=None, status=status)

    def start_over(self, request: gr.Request) -> PageState:
        """Remove all questions, answers and media, and delete the uploads of the visitor."""
        self._remove_media(request.session_hash)
        return PageState([], box_value(), media_html([]), None, status_html("Chat and media removed."), timeline="")

    def set_audio(self, request: gr.Request, is_on: bool) -> PageState:
        """Turn the audio branch on or off, and process the media of the conversation again."""
        name = request.session_hash
        visitor = self._visitors[name]
        failed = visitor.set_audio(is_on)
        self._reset_messages(name)
        status = status_html(f"Audio is {'on' if is_on else 'off'}. The chat was cleared; the media were kept.")
        if failed:
            status = alert_html([error_text(error, path) for path, error in failed])
        model_input = media_html(visitor.media)
        return PageState(list(self._messages_of(name)), model_input=model_input, record=None, status=status)

    def leave(self, request: gr.Request) -> None:
        """Delete everything about a visitor who closed the page."""
        self._visitors.leave(request.session_hash)

    def _messages_of(self, name: str) -> list[ChatbotMessage]:
        return self._visitors[name].messages

    def _reset_messages(self, name: str) -> None:
        """Start a new list with the media alone. ``_answer`` checks the identity of the list."""
        visitor = self._visitors[name]
        visitor.messages = [file_message(medium.path) for medium in visitor.media]

    def _remove_media(self, name: str) -> None:
        self._visitors[name].start_over()
        self._visitors.release(name)
        self._reset_messages(name)

    def _add(self, name: str, paths: Sequence[Path], *, is_upload: bool = True) -> list[str]:
        """Add files to the conversation; return one error message for each file that could not be read."""
        if len(paths) > MAX_FILES:
            return [f"The message has {len(paths)} files. Attach at most {MAX_FILES} at once."]
        problems = []
        for path in paths:
            if is_upload:
                self._visitors.hold(name, path)
            try:
                self._visitors[name].add(path)
                self._messages_of(name).append(file_message(path))
            except (VideoLlamaError, ValueError) as error:
                problems.append(error_text(error, path))
        return problems


def throttled(texts: Iterator[str], seconds: float) -> Iterator[str]:
    """Yield texts at least ``seconds`` apart; skip those in between."""
    last = -math.inf
    for text in texts:
        now = time.monotonic()
        if now - last >= seconds:
            last = now
            yield text


def decoding_of(
    method: str,
    temperature: float,
    top_p: float,
    top_k: float,
    num_beams: float,
    max_new_tokens: float,
    seed: str,
) -> Decoding:
    """Return the decoding settings of the controls. Greedy decoding ignores temperature, top-p, top-k and seed.

    Raises ValueError for invalid values.
    """
    decoding = Decoding(num_beams=int(num_beams), max_new_tokens=int(max_new_tokens))
    if method == GREEDY:
        return decoding
    return replace(decoding, temperature=temperature, top_p=top_p, top_k=int(top_k), seed=_seed(seed.strip()))


def _seed(text: str) -> int | None:
    try:
        return int(text) if text else None
    except ValueError as error:
        raise ValueError(f"The seed is {text!r}. Enter an integer, or leave the field empty.") from error


def box_value(text: str = "") -> dict[str, Any]:
    """Return a value of the text box: this text, no attached files."""
    return {"text": text, "files": []}


def stop_button(*, is_running: bool) -> Any:
    """Return the update of the stop button: red while an answer is generated, else grey and disabled."""
    return gr.update(interactive=is_running, variant="stop" if is_running else "secondary")


def text_message(role: str, text: str) -> ChatbotMessage:
    """Return a chat message. The chat component interprets text as HTML, so it is escaped here."""
    return {"role": role, "content": escape(text, quote=False)}


def answer_message(text: str, warnings: Sequence[str]) -> ChatbotMessage:
    """Return a chat message with an answer, preceded by the warnings about its media."""
    return text_message("assistant", "\n\n".join([*warnings, text]))


def file_message(path: Path) -> ChatbotMessage:
    """Return a chat message of the user that displays a media file."""
    return {"role": "user", "content": {"path": str(path), "alt_text": path.name}}


def status_html(text: str) -> str:
    """Return the status line. Screen readers announce it when they are idle."""
    return f'<p role="status" class="vl-quiet">{escape(text)}</p>' if text else ""


def alert_html(problems: Sequence[str]) -> str:
    """Return error messages for the status line. Screen readers announce them at once."""
    return f'<p role="alert" class="vl-alert">{"<br>".join(escape(problem) for problem in problems)}</p>'


def error_text(error: Exception, path: Path | None = None) -> str:
    """Return an error message for visitors: file names instead of paths, settings instead of options of the code."""
    message = str(error)
    for option, setting in SETTINGS_OF_OPTIONS.items():
        message = message.replace(option, setting)
    return message if path is None else message.replace(str(path), path.name)


def public_record(answer: Answer) -> dict[str, Any]:
    """Return the record of an answer without paths of the server: media and weights by name only."""
    record = {"answer": answer.text, **answer.record.public_dict()}
    return record | {"media": [medium | {"source": Path(medium["source"]).name} for medium in record["media"]]}


def summary(answer: Answer) -> str:
    """Return a line with the number of tokens, the time, the stop reason, the seed and the dropped turns."""
    record = answer.record
    parts = [f"{record.tokens['generated']} tokens in {record.seconds['prefill'] + record.seconds['generate']:.1f} s"]
    if record.stop_reason in REASONS:
        parts.append(REASONS[record.stop_reason])
    if record.decoding["seed"] is not None:
        parts.append(f"seed {record.decoding['seed']}")
    if record.dropped_turns:
        parts.append(f"{record.dropped_turns} earliest turns dropped to fit the context")
    return "; ".join(parts)
