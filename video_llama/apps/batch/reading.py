"""Read the media of batches ahead of the model, in separate processes with limits (apps/media).

In: batches of rows. Out: the same batches with their media read, or with the error of each medium.
"""

from __future__ import annotations

import math
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, replace
from typing import Any, Protocol, TypeVar
from urllib.parse import urlsplit

from video_llama.apps.batch.limits import BatchLimits
from video_llama.apps.batch.stores import MemberPath, member_content, stored_content, too_large
from video_llama.apps.media.pool import MediaNeeds
from video_llama.apps.media.reader import MediaReader
from video_llama.apps.server.url_fetcher import UrlFetcher
from video_llama.datasets.question_rows import QuestionRow
from video_llama.errors import MediaError
from video_llama.evaluation.answering import MediaKey, error_line
from video_llama.processors.medium import MediaOptions, ReadMedium, read_medium
from video_llama.processors.sampling import FrameSampling
from video_llama.processors.scene_cuts import ScenePlan
from video_llama.processors.window_reader import WindowReader
from video_llama.processors.windows import Window, WindowPlan

Result = TypeVar("Result")

MIN_BATCHES_AHEAD = 2
"""Batches whose media are read before they are needed, at least."""
RETRY_SECONDS = 0.25
"""Time before the second attempt to read a medium; it doubles before each further one."""
ADVICE = "Download the file and give its path"


@dataclass(frozen=True)
class WindowRow(QuestionRow):
    """A row about a window, from ``start`` to ``end``, of a long medium (windows.py)."""


@dataclass(frozen=True)
class ReadBatch:
    """Rows, and each of their media as it was read, or as the one-line error."""

    rows: Sequence[QuestionRow]
    media: dict[MediaKey, ReadMedium | str]


@dataclass
class ReadingTimes:
    """Sums over the media read so far, in seconds; ``media_seconds`` is their duration."""

    num_media: int = 0
    fetch: float = 0.0
    decode: float = 0.0
    wait: float = 0.0
    """Time in which the model had to wait for media."""
    media_seconds: float = 0.0
    retries: int = 0
    """Number of attempts after the first of each medium."""
    lock: threading.Lock = field(default_factory=threading.Lock)

    def add(
        self,
        *,
        fetch: float,
        decode: float,
        media_seconds: float,
        retries: int = 0,
        wait: float = 0,
        num_media: int = 1,
    ) -> None:
        """Add media; threads may call this."""
        with self.lock:
            self.num_media += num_media
            self.fetch += fetch
            self.decode += decode
            self.wait += wait
            self.media_seconds += media_seconds
            self.retries += retries

    def values(self) -> dict[str, Any]:
        """Return the sums as arguments of ``add``."""
        with self.lock:
            return {each.name: getattr(self, each.name) for each in fields(self) if each.name != "lock"}


class BatchReader:
    """Reads batches; ``close`` ends the processes. ``options`` are those of all rows, whose segments replace theirs."""

    def __init__(self, needs: MediaNeeds, limits: BatchLimits, options: MediaOptions, batch_size: int) -> None:
        self.times = ReadingTimes()
        self._needs, self._limits, self._options = needs, limits, options
        self._num_ahead = max(MIN_BATCHES_AHEAD, math.ceil(2 * limits.media_workers / batch_size))
        self._fetcher = UrlFetcher(
            limits.allowed_hosts,
            limits.max_media_bytes,
            limits.fetch_seconds,
            limits.max_redirects,
            program="video-llama batch",
            advice=ADVICE,
            permission="add --allow-host HOST",
        )
        self._kept: tuple[str, bytes] | None = None
        self._keeping = threading.Lock()
        self._reader = MediaReader(needs, limits)
        self._threads = ThreadPoolExecutor(limits.media_workers, thread_name_prefix="video-llama-batch")

    def read(self, batches: Iterable[Sequence[QuestionRow]]) -> Iterator[ReadBatch]:
        """Yield the batches in order. A medium of consecutive batches is read once."""
        waiting: deque[tuple[Sequence[QuestionRow], dict[MediaKey, _Reading]]] = deque()
        last: dict[MediaKey, _Reading] = {}
        for rows in batches:
            keys = dict.fromkeys((path, row.start, row.end) for row in rows for path in row.media)
            if isinstance(rows[0], WindowRow) and not os.path.isdir(rows[0].media[0]):
                future = self._threads.submit(self._read_windows, rows[0].media[0], list(keys))
                last = {key: _OneOf(future, key) for key in keys}
            else:
                last = {key: last.get(key) or self._threads.submit(self._read, key) for key in keys}
            waiting.append((rows, last))
            if len(waiting) > self._num_ahead:
                yield self._finished(*waiting.popleft())
        while waiting:
            yield self._finished(*waiting.popleft())

    def close(self) -> None:
        """End the processes; media that are being read are finished first."""
        self._threads.shutdown(cancel_futures=True)
        self._reader.close()

    def _finished(self, rows: Sequence[QuestionRow], media: dict[MediaKey, _Reading]) -> ReadBatch:
        start = time.perf_counter()
        batch = ReadBatch(rows, {key: future.result() for key, future in media.items()})
        with self.times.lock:
            self.times.wait += time.perf_counter() - start
        return batch

    def _read(self, key: MediaKey) -> ReadMedium | str:
        """Return a medium, or its error, and add its times."""
        path, start, end = key
        effort = _Effort()
        media_seconds = 0.0
        try:
            options = self._options_of(start, end)
            medium = self._tried(lambda: self._attempt(path, options, effort), effort)
            parts = (medium.frames, medium.sound)
            media_seconds = max((part.duration for part in parts if part is not None), default=0)
            return medium
        except (MediaError, ValueError) as error:  # ValueError: a segment or sampling that does not fit the medium
            return effort.error_line(error)
        finally:
            self.times.add(
                fetch=effort.fetch, decode=effort.decode, media_seconds=media_seconds, retries=effort.retries
            )

    def plan(
        self, path: str, start: float | None, end: float | None, plan: WindowPlan | ScenePlan
    ) -> tuple[float, list[Window]] | str:
        """Return the duration of a medium in seconds, and its windows; or its one-line error."""
        effort = _Effort()

        def attempt() -> tuple[float, list[Window]]:
            options = self._options_of(start, end)
            if os.path.isdir(path):
                needs = self._needs
                with WindowReader(
                    path,
                    needs.settings,
                    options,
                    max_frames=needs.max_frames,
                    with_audio_branch=needs.with_audio_branch,
                ) as reader:
                    return reader.duration, reader.plan(plan)
            return self._reader.plan_windows(self._content_of_windows(path), _name(path), options, plan)

        try:
            return self._tried(attempt, effort)
        except (MediaError, ValueError) as error:
            return effort.error_line(error)

    def _read_windows(self, path: str, keys: Sequence[MediaKey]) -> dict[MediaKey, ReadMedium | str]:
        """Return windows of a medium, or its error for all of them, and add their times."""
        effort = _Effort()
        windows = [Window(start or 0.0, end or 0.0) for _, start, end in keys]

        def attempt() -> list[ReadMedium]:
            with _adding(effort, "fetch"):
                data = self._content_of_windows(path)
            with _adding(effort, "decode"):
                return self._reader.read_windows(data, _name(path), self._options_of(None, None), windows)

        try:
            return dict(zip(keys, self._tried(attempt, effort), strict=True))
        except (MediaError, ValueError) as error:
            return dict.fromkeys(keys, effort.error_line(error))
        finally:
            self.times.add(
                fetch=effort.fetch,
                decode=effort.decode,
                media_seconds=sum(window.end - window.start for window in windows),
                retries=effort.retries,
            )

    def _content_of_windows(self, path: str) -> bytes:
        """Return the content of a medium. That of the last address is kept for its next windows."""
        if "://" not in path:
            return self._content(path)
        with self._keeping:
            if self._kept is None or self._kept[0] != path:
                self._kept = None
                self._kept = (path, self._content(path))
            return self._kept[1]

    def _tried(self, attempt: Callable[[], Result], effort: _Effort) -> Result:
        """Read a medium, again after failures that may not last. Raises the error of the last attempt."""
        while True:
            try:
                return attempt()
            except MediaError as error:
                if not error.is_temporary or effort.retries == self._limits.retries:
                    raise
            time.sleep(RETRY_SECONDS * 2**effort.retries)
            effort.retries += 1

    def _attempt(self, path: str, options: MediaOptions, effort: _Effort) -> ReadMedium:
        if os.path.isdir(path):
            with _adding(effort, "decode"):
                return self._read_folder(path, options)
        with _adding(effort, "fetch"):
            data = self._content(path)
        with _adding(effort, "decode"):
            return self._reader.read_data(data, _name(path), options)

    def _options_of(self, start: float | None, end: float | None) -> MediaOptions:
        frames = self._options.frames or FrameSampling(self._needs.settings.num_frames)
        start, end = frames.start if start is None else start, frames.end if end is None else end
        return replace(self._options, frames=replace(frames, start=start, end=end))

    def _read_folder(self, path: str, options: MediaOptions) -> ReadMedium:
        """Read a folder of frames, in this process."""
        needs = self._needs
        return read_medium(
            path, needs.settings, options, max_frames=needs.max_frames, with_audio_branch=needs.with_audio_branch
        )

    def _content(self, path: str) -> bytes:
        max_bytes = self._limits.max_media_bytes
        if isinstance(path, MemberPath):
            return member_content(path.member, max_bytes)
        if "://" not in path:
            return _file_content(path, max_bytes)
        if urlsplit(path).scheme in ("http", "https"):
            return self._fetcher.fetch(path)
        return stored_content(path, max_bytes)


def _file_content(path: str, max_bytes: int) -> bytes:
    try:
        if not os.path.isfile(path):
            exists = os.path.exists(path)
            raise MediaError(f"{path} {'is not a file' if exists else 'does not exist'}. Correct the path.")
        with open(path, "rb") as file:
            data = file.read(max_bytes + 1)
    except (OSError, ValueError) as error:
        raise MediaError(f"{path} cannot be read ({error}). Correct the path.") from error
    if len(data) > max_bytes:
        raise too_large(path, max_bytes)
    return data


def _name(path: str) -> str:
    """Return the name of a medium in its record: without the query of a URL, which can hold a key."""
    return path.partition("?")[0] if "://" in path else str(path)


@dataclass
class _Effort:
    """The seconds and the repetitions of reading one medium."""

    fetch: float = 0.0
    decode: float = 0.0
    retries: int = 0

    def error_line(self, error: Exception) -> str:
        """Return the error of a medium in one line, with the number of attempts."""
        return error_line(error) + (f" (tried {self.retries + 1} times)" if self.retries else "")


class _Reading(Protocol):
    """A medium that is being read."""

    def result(self) -> ReadMedium | str: ...


@dataclass(frozen=True)
class _OneOf:
    """One of several windows that are read together."""

    future: Future[dict[MediaKey, ReadMedium | str]]
    key: MediaKey

    def result(self) -> ReadMedium | str:
        return self.future.result()[self.key]


@contextmanager
def _adding(effort: _Effort, stage: str) -> Iterator[None]:
    """Add the time of the block to a stage."""
    began = time.perf_counter()
    try:
        yield
    finally:
        setattr(effort, stage, getattr(effort, stage) + time.perf_counter() - began)
