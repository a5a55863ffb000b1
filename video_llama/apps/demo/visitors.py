"""The visitors of the page: conversation, media and uploaded files of each one, and the model that they share.

The model is locked for one step at a time (encode a medium, generate a token), so answers to several visitors are
generated concurrently, and a visitor who leaves during an answer does not block the others. Media are decoded in
separate processes.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from video_llama.apps.media.reader import MediaReader
from video_llama.chat import Answer, AnswerStream, Assistant, Chat, Decoding, QueryAttention, ReadMedium
from video_llama.errors import VideoLlamaError
from video_llama.processors.medium import MediaOptions


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
        self._has_left = False
        self.media: list[ShownMedium] = []

    def _new_chat(self) -> Chat:
        return self._assistant.chat(no_audio=not self._with_audio)

    @property
    def last_answer(self) -> Answer | None:
        """The last answer of the conversation, complete or stopped; None before the first one."""
        return self._chat.answers[-1] if self._chat.answers else None

    def add(self, path: Path) -> None:
        """Add a media file to the conversation. Raises MediaError; the conversation is then unchanged."""
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

    def compute_attention(self) -> None:
        """Compute the attention of the query tokens for all media that do not have it yet."""
        for medium in self.media:
            if medium.attention is None:
                with self._lock:
                    medium.attention = self._assistant.attention(medium.read)

    def stop(self) -> None:
        """Stop the current answer after the current token. A beam search runs to its end."""
        self._open = None

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
    """All visitors of the page, by the session hash of Gradio."""

    def __init__(self, assistant: Assistant, reader: MediaReader, *, with_audio: bool) -> None:
        self.assistant, self.with_audio, self._reader = assistant, with_audio, reader
        self._lock = threading.Lock()
        self._present: dict[str, Visitor] = {}
        self._uploads = Uploads()

    def __len__(self) -> int:
        return len(self._present)

    def __getitem__(self, name: str) -> Visitor:
        """Return the visitor with this name; create one if there is none."""
        if name not in self._present:
            self._present[name] = Visitor(self.assistant, self._reader, self._lock, with_audio=self.with_audio)
        return self._present[name]

    def hold(self, name: str, path: Path) -> None:
        """Keep an uploaded file until this visitor leaves or removes it."""
        self._uploads.hold(path, name)

    def release(self, name: str) -> None:
        """Delete the uploads of this visitor."""
        self._uploads.release(name)

    def leave(self, name: str) -> None:
        """Remove a visitor: stop the current answer, delete the conversation and the uploads."""
        visitor = self._present.pop(name, None)
        if visitor is not None:
            visitor.leave()
        self.release(name)
