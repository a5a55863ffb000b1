"""Who is on the page: each visitor's conversation, media and files, and the one model that all of them share.

The model is locked for one step (a medium encoded, a token chosen), never from one step to the next: answers to
several visitors grow side by side, and a visitor who leaves in the middle of one holds nothing. Files are decoded in
processes of their own.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from video_llama.apps.media.reader import MediaReader
from video_llama.chat import Answer, AnswerStream, Assistant, Chat, QueryAttention, ReadMedium
from video_llama.errors import VideoLlamaError
from video_llama.processors.medium import MediaOptions


@dataclass
class ShownMedium:
    """A file that was put before the model; ``attention`` when an answer has been given about it."""

    path: Path
    read: ReadMedium
    mel: np.ndarray | None
    """Log-mel clips [S, 1, bins, steps], or None without sound."""
    attention: QueryAttention | None = None


class Visitor:
    """One visitor's conversation. Methods that reach the model wait for it, one step at most."""

    def __init__(self, assistant: Assistant, reader: MediaReader, lock: threading.Lock, *, with_sound: bool) -> None:
        self._assistant, self._reader, self._lock, self._with_sound = assistant, reader, lock, with_sound
        self._chat = self._new_chat()
        self._open: AnswerStream | None = None
        self._has_left = False
        self.media: list[ShownMedium] = []

    def _new_chat(self) -> Chat:
        return self._assistant.chat(no_audio=not self._with_sound)

    @property
    def last_answer(self) -> Answer | None:
        """The last answer of the conversation, whole or stopped."""
        return self._chat.answers[-1] if self._chat.answers else None

    def show(self, path: Path) -> None:
        """Put a file before the model. Raises MediaError, and then it is not part of the conversation."""
        start = time.perf_counter()
        read = self._reader.read(path, MediaOptions(no_audio=not self._with_sound))
        seconds = time.perf_counter() - start
        with self._lock:
            self._chat.add(replace(self._assistant.encode(read), decode_seconds=seconds))
            self.media.append(ShownMedium(path, read, self._assistant.mel_clips(read)))

    def answer(self, question: str, **decoding: Any) -> Iterator[str]:
        """The answer's text as it grows, to its end or to ``stop``. Raises PromptError and ValueError."""
        with self._lock:
            stream = self._open = self._chat.stream(question, **decoding)
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

    def look(self) -> None:
        """Find out where the queries looked, in the media where it is not known yet."""
        for medium in self.media:
            if medium.attention is None:
                with self._lock:
                    medium.attention = self._assistant.attention(medium.read)

    def stop(self) -> None:
        """End the answer that is being given, after the token that is being chosen (with beams: after the search)."""
        self._open = None

    def forget(self) -> None:
        """Forget what was said, keep what was shown."""
        self.stop()
        with self._lock:
            self._chat.reset()

    def start_over(self) -> None:
        """Forget what was said and what was shown."""
        self.stop()
        with self._lock:
            self._chat, self.media = self._new_chat(), []

    def set_sound(self, is_on: bool) -> list[tuple[Path, VideoLlamaError]]:
        """Hear the media, or no longer: they are shown anew, and what was said is forgotten.

        Returns the files that cannot be shown that way, with the reasons; they are no longer part of it.
        """
        paths = [medium.path for medium in self.media]
        self._with_sound = is_on
        self.start_over()
        refused: list[tuple[Path, VideoLlamaError]] = []
        for path in paths:
            try:
                self.show(path)
            except VideoLlamaError as error:
                refused.append((path, error))
        return refused

    def leave(self) -> None:
        """Stop whatever is under way, for good."""
        with self._lock:
            self._has_left = True
            self._open, self.media = None, []


class Uploads:
    """Which visitors hold which uploaded files. Equal files have one path, so that the last holder's leave counts.

    Who uploads an equal file puts a new one in the other's place: that one is not deleted before it was held, too.
    """

    def __init__(self) -> None:
        self._holders: dict[Path, set[str]] = {}
        self._inodes: dict[Path, int] = {}

    def hold(self, path: Path, visitor: str) -> None:
        """Keep a file for this visitor; one that is gone is nobody's."""
        with suppress(FileNotFoundError):
            self._inodes[path] = path.stat().st_ino
            self._holders.setdefault(path, set()).add(visitor)

    def release(self, visitor: str) -> None:
        """Delete the visitor's files that nobody else holds, and the folders that this leaves empty."""
        for path, holders in list(self._holders.items()):
            holders.discard(visitor)
            if holders:
                continue
            del self._holders[path]
            inode = self._inodes.pop(path)
            with suppress(OSError):  # the file is gone already, or its folder is not empty
                if path.stat().st_ino == inode:
                    path.unlink()
                    path.parent.rmdir()


class Visitors:
    """Everyone who is on the page, by the name that the web server gives a session."""

    def __init__(self, assistant: Assistant, reader: MediaReader, *, with_sound: bool) -> None:
        self.assistant, self.with_sound, self._reader = assistant, with_sound, reader
        self._lock = threading.Lock()
        self._present: dict[str, Visitor] = {}
        self._uploads = Uploads()

    def __len__(self) -> int:
        return len(self._present)

    def __getitem__(self, name: str) -> Visitor:
        """The visitor of this name; a new one has said nothing yet."""
        if name not in self._present:
            self._present[name] = Visitor(self.assistant, self._reader, self._lock, with_sound=self.with_sound)
        return self._present[name]

    def hold(self, name: str, path: Path) -> None:
        """Keep an uploaded file until this visitor leaves or lets go of it."""
        self._uploads.hold(path, name)

    def release(self, name: str) -> None:
        """Delete this visitor's uploads."""
        self._uploads.release(name)

    def leave(self, name: str) -> None:
        """Forget a visitor: the answer under way ends, the conversation goes, the uploads are deleted."""
        visitor = self._present.pop(name, None)
        if visitor is not None:
            visitor.leave()
        self.release(name)
