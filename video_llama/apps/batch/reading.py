"""Read the media of batches ahead of the model, in separate processes with limits (apps/media).

In: batches of rows. Out: the same batches with their media read, or with the error of each medium.
"""

from __future__ import annotations

import math
import os
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from urllib.parse import urlsplit

from video_llama.apps.batch.limits import BatchLimits
from video_llama.apps.media.pool import MediaNeeds
from video_llama.apps.media.reader import MediaReader
from video_llama.apps.server.url_fetcher import UrlFetcher
from video_llama.datasets.question_rows import QuestionRow
from video_llama.errors import MediaError
from video_llama.evaluation.answering import MediaKey, error_line
from video_llama.processors.medium import MediaOptions, ReadMedium, read_medium
from video_llama.processors.sampling import FrameSampling

MIN_BATCHES_AHEAD = 2
"""Batches whose media are read before they are needed, at least."""
ADVICE = "Download the file and give its path"


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
    lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, *, fetch: float, decode: float, media_seconds: float) -> None:
        """Add one medium; threads may call this."""
        with self.lock:
            self.num_media += 1
            self.fetch += fetch
            self.decode += decode
            self.media_seconds += media_seconds


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
        self._reader = MediaReader(needs, limits)
        self._threads = ThreadPoolExecutor(limits.media_workers, thread_name_prefix="video-llama-batch")

    def read(self, batches: Iterable[Sequence[QuestionRow]]) -> Iterator[ReadBatch]:
        """Yield the batches in order. A medium of consecutive batches is read once."""
        waiting: deque[tuple[Sequence[QuestionRow], dict[MediaKey, Future[ReadMedium | str]]]] = deque()
        last: dict[MediaKey, Future[ReadMedium | str]] = {}
        for rows in batches:
            keys = dict.fromkeys((path, row.start, row.end) for row in rows for path in row.media)
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

    def _finished(self, rows: Sequence[QuestionRow], media: dict[MediaKey, Future[ReadMedium | str]]) -> ReadBatch:
        start = time.perf_counter()
        batch = ReadBatch(rows, {key: future.result() for key, future in media.items()})
        self.times.wait += time.perf_counter() - start
        return batch

    def _read(self, key: MediaKey) -> ReadMedium | str:
        """Return a medium, or its error, and add its times."""
        path, start, end = key
        began = time.perf_counter()
        fetched: float | None = None
        media_seconds = 0.0
        try:
            options = self._options_of(start, end)
            if os.path.isdir(path):
                fetched = began
                medium = self._read_folder(path, options)
            else:
                data = self._content(path)
                fetched = time.perf_counter()
                medium = self._reader.read_data(data, _name(path), options)
            media_seconds = max(
                (part.duration for part in (medium.frames, medium.sound) if part is not None), default=0
            )
            return medium
        except (MediaError, ValueError) as error:  # ValueError: a segment or sampling that does not fit the medium
            return error_line(error)
        finally:
            ended = time.perf_counter()
            fetched = ended if fetched is None else fetched
            self.times.add(fetch=fetched - began, decode=ended - fetched, media_seconds=media_seconds)

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
        if "://" not in path:
            return _file_content(path, self._limits.max_media_bytes)
        if urlsplit(path).scheme not in ("http", "https"):
            raise MediaError(f"{path} is not an http(s) URL. {ADVICE}.")
        return self._fetcher.fetch(path)


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
        raise MediaError(
            f"{path} has more than {max_bytes:,} bytes. Use a smaller file, or set max_media_bytes (--set)."
        )
    return data


def _name(path: str) -> str:
    """Return the name of a medium in its record: without the query of a URL, which can hold a key."""
    return path.partition("?")[0] if "://" in path else path
