"""The visitors of the page: conversation, media and uploaded files of each one, and the model that they share.

The model is locked for one step at a time (encode a medium, generate a token), so answers to several visitors are
generated concurrently, and a visitor who leaves during an answer does not block the others. Media are decoded in
separate processes.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from video_llama.apps.media.reader import MediaReader
from video_llama.chat import Answer, AnswerStream, Assistant, Chat, Decoding, QueryAttention, ReadMedium
from video_llama.chat.timeline import Timeline, WindowAnswer
from video_llama.chat.window_answers import summary_prompt, summary_turn
from video_llama.errors import MediaError, VideoLlamaError
from video_llama.processors.medium import MediaOptions
from video_llama.processors.windows import WindowPlan

MAX_MEDIA = 16
"""Maximum number of media in one conversation."""
MAX_QUESTION_CHARACTERS = 100_000
MAX_WINDOWS, WINDOWS_TOGETHER = 240, 4
"""Maximum number of windows of a timeline, and of those that are read at once."""
MAX_VISITORS, MAX_ABSENT = 64, 8
"""Maximum number of conversations in memory, and of those whose page is not open (a program, or a page that loads)."""


@dataclass
class ShownMedium:
    """A medium of the conversation. ``attention`` is set after the first answer about it."""

    path: Path
    read: ReadMedium
    mel: np.ndarray | None
    """Log-mel clips [S, 1, bins, steps], or None without sound."""
    attention: QueryAttention | None = None


class Visitor:
    """The conversation of one visitor. Methods that use the model wait for at most one step of another visitor."""

    def __init__(self, assistant: Assistant, reader: MediaReader, lock: threading.Lock, *, with_audio: bool) -> None:
        self._assistant, self._reader, self._lock, self._with_audio = assistant, reader, lock, with_audio
        self._chat = self._new_chat()
        self._open: AnswerStream | None = None
        self._num_stops = 0
        self._has_left = False
        self.media: list[ShownMedium] = []
        self.messages: list[dict[str, Any]] = []
        """The messages on the page. A new list replaces it when the conversation is cleared."""
        self.used_at = time.monotonic()

    def _new_chat(self) -> Chat:
        return self._assistant.chat(no_audio=not self._with_audio)

    @property
    def last_answer(self) -> Answer | None:
        """The last answer of the conversation, complete or stopped; None before the first one."""
        return self._chat.answers[-1] if self._chat.answers else None

    @property
    def warnings(self) -> list[str]:
        """The warnings about the media of the conversation, shown before each answer."""
        return self._chat.warnings

    def add(self, path: Path) -> None:
        """Add a media file to the conversation. Raises MediaError; the conversation is then unchanged."""
        if len(self.media) >= MAX_MEDIA:
            raise MediaError(f"The conversation already has {MAX_MEDIA} media. Remove them and start over.")
        start = time.perf_counter()
        read = self._reader.read(path, MediaOptions(no_audio=not self._with_audio))
        seconds = time.perf_counter() - start
        with self._lock:
            self._chat.add(replace(self._assistant.encode(read), decode_seconds=seconds))
            self.media.append(ShownMedium(path, read, self._assistant.mel_clips(read)))

    def answer(self, question: str, decoding: Decoding | None = None) -> Iterator[str]:
        """Yield the text generated so far after each piece, until the answer ends or ``stop`` is called.

        Raises PromptError and ValueError.
        """
        if len(question) > MAX_QUESTION_CHARACTERS:
            raise ValueError(
                f"The question has {len(question):,} characters; the limit is {MAX_QUESTION_CHARACTERS:,}. Shorten it."
            )
        with self._lock:
            stream = self._open = self._chat.stream(question, decoding)
        text = ""
        while True:
            with self._lock:
                if self._open is not stream or self._has_left:
                    stream.close()
                    return
                piece = next(stream, None)
            if piece is None:
                return
            text += piece
            yield text

    def timeline(
        self, medium: ShownMedium, question: str, plan: WindowPlan, decoding: Decoding, *, with_summary: bool
    ) -> Iterator[tuple[Timeline, int]]:
        """Yield the timeline of a medium so far, and its number of windows, after each window; then with the summary.

        Ends early if ``stop`` is called. Raises MediaError, PromptError and ValueError.
        """
        num_stops = self._num_stops
        options, name = MediaOptions(no_audio=not self._with_audio), medium.path.name
        data = medium.path.read_bytes()
        duration, windows = self._reader.plan_windows(data, name, options, plan)
        if len(windows) > MAX_WINDOWS:
            raise ValueError(
                f"{len(windows)} windows in {duration:.0f} s; the limit is {MAX_WINDOWS}. Use longer windows and steps."
            )
        timeline = Timeline(name, round(duration, 3), question, plan.as_dict(), ())
        for first in range(0, len(windows), WINDOWS_TOGETHER):
            chunk = windows[first : first + WINDOWS_TOGETHER]
            for window, read in zip(chunk, self._reader.read_windows(data, name, options, chunk), strict=True):
                answer = None if self._num_stops > num_stops else self._answer_alone(read, question, decoding)
                if answer is None:
                    return
                timeline = replace(timeline, windows=(*timeline.windows, WindowAnswer(window, answer)))
                yield timeline, len(windows)
        if with_summary and self._num_stops == num_stops:
            summary_turn(self._assistant.engine, timeline, decoding)  # checks its length
            summary = self._answer_alone(None, summary_prompt(timeline), decoding)
            if summary is not None:
                yield replace(timeline, summary=summary), len(windows)

    def _answer_alone(self, read: ReadMedium | None, question: str, decoding: Decoding) -> Answer | None:
        """Return the answer to a question outside of the conversation, or None if it was stopped."""
        with self._lock:
            chat = self._assistant.chat(*([] if read is None else [read]))
            stream = self._open = chat.stream(question, decoding)
        while True:
            with self._lock:
                if self._open is not stream or self._has_left:
                    stream.close()
                    return None
                if next(stream, None) is None:
                    return stream.answer

    def compute_attention(self) -> None:
        """Compute the attention of the query tokens for all media that do not have it yet."""
        for medium in self.media:
            if medium.attention is None:
                with self._lock:
                    medium.attention = self._assistant.attention(medium.read)

    def stop(self) -> None:
        """Stop the current answer after the current token, and a timeline. A beam search runs to its end."""
        self._open = None
        self._num_stops += 1

    def clear_chat(self) -> None:
        """Remove all questions and answers; keep the media."""
        self.stop()
        with self._lock:
            self._chat.reset()

    def start_over(self) -> None:
        """Remove all questions, answers and media."""
        self.stop()
        with self._lock:
            self._chat, self.media = self._new_chat(), []

    def set_audio(self, is_on: bool) -> list[tuple[Path, VideoLlamaError]]:
        """Turn audio on or off: clear the chat and read the media again.

        Returns the files that cannot be used with this setting and their errors; they are removed.
        """
        paths = [medium.path for medium in self.media]
        self._with_audio = is_on
        self.start_over()
        failed: list[tuple[Path, VideoLlamaError]] = []
        for path in paths:
            try:
                self.add(path)
            except VideoLlamaError as error:
                failed.append((path, error))
        return failed

    def leave(self) -> None:
        """Stop the current answer and drop the media. The visitor cannot be used afterwards."""
        with self._lock:
            self._has_left = True
            self._open, self.media = None, []


class Uploads:
    """The uploaded files and the visitors who hold them. A file is deleted when its last holder leaves.

    Gradio stores files by content hash: two visitors who upload the same file share one path, and the second upload
    replaces the first. The inode distinguishes the two, so that a replaced file is not deleted before it is held.
    """

    def __init__(self) -> None:
        self._holders: dict[Path, set[str]] = {}
        self._inodes: dict[Path, int] = {}

    def hold(self, path: Path, visitor: str) -> None:
        """Register a file for this visitor. Files that no longer exist are ignored."""
        with suppress(FileNotFoundError):
            self._inodes[path] = path.stat().st_ino
            self._holders.setdefault(path, set()).add(visitor)

    def release(self, visitor: str) -> None:
        """Delete the files that only this visitor holds, and their folders if they are empty."""
        for path, holders in list(self._holders.items()):
            holders.discard(visitor)
            if holders:
                continue
            del self._holders[path]
            inode = self._inodes.pop(path)
            with suppress(OSError):  # the file is already deleted, or its folder is not empty
                if path.stat().st_ino == inode:
                    path.unlink()
                    path.parent.rmdir()


class Visitors:
    """All visitors of the page, by the session hash of Gradio.

    An open page keeps a request open, its heartbeat. If there are too many visitors, the one that has been inactive for
    the longest time is removed, first among those without a heartbeat.
    """

    def __init__(self, assistant: Assistant, reader: MediaReader, *, with_audio: bool) -> None:
        self.assistant, self.with_audio, self._reader = assistant, with_audio, reader
        self._lock = threading.Lock()
        self._present: dict[str, Visitor] = {}
        self._open_pages: Counter[str] = Counter()
        self._changing = threading.RLock()
        self._uploads = Uploads()

    def __len__(self) -> int:
        return len(self._present)

    def __getitem__(self, name: str) -> Visitor:
        """Return the visitor with this name; create one if there is none, and remove inactive ones."""
        with self._changing:
            visitor = self._present.get(name)
            if visitor is None:
                self._make_room()
                visitor = Visitor(self.assistant, self._reader, self._lock, with_audio=self.with_audio)
                self._present[name] = visitor
            visitor.used_at = time.monotonic()
            return visitor

    def _make_room(self) -> None:
        """Remove inactive visitors until another one can be added."""
        absent = sorted(self._present.keys() - self._open_pages.keys(), key=self._last_use)
        for name in absent[: max(0, len(absent) - MAX_ABSENT + 1)]:
            self.leave(name)
        for name in sorted(self._present, key=self._last_use)[: max(0, len(self) - MAX_VISITORS + 1)]:
            self.leave(name)

    def _last_use(self, name: str) -> float:
        return self._present[name].used_at

    def page_opened(self, name: str) -> None:
        """Register a heartbeat of a visitor, who may not have used the page yet."""
        with self._changing:
            self._open_pages[name] += 1

    def page_closed(self, name: str) -> None:
        """Remove a heartbeat of a visitor. Gradio then calls ``leave``."""
        with self._changing:
            self._open_pages[name] -= 1
            if self._open_pages[name] <= 0:
                del self._open_pages[name]

    def hold(self, name: str, path: Path) -> None:
        """Keep an uploaded file until this visitor leaves or removes it."""
        self._uploads.hold(path, name)

    def release(self, name: str) -> None:
        """Delete the uploads of this visitor."""
        self._uploads.release(name)

    def leave(self, name: str) -> None:
        """Remove a visitor: stop the current answer, delete the conversation and the uploads."""
        with self._changing:
            visitor = self._present.pop(name, None)
        if visitor is not None:
            visitor.leave()
        self.release(name)
