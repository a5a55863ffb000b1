"""Processing of a chat request: admission to the queue, its media, its answers and its time limit."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress

from video_llama.apps.media.pool import MediaPool
from video_llama.apps.server.cache_limit import CacheLimit, CacheTooSmallError
from video_llama.apps.server.errors import ApiError
from video_llama.apps.server.media_cache import MediaCache
from video_llama.apps.server.media_input import MediaInput
from video_llama.apps.server.metrics import Metrics
from video_llama.apps.server.protocol import ChatRequest, MediaPart
from video_llama.apps.server.request import (
    check_request,
    decodings,
    field_of,
    media_options,
    media_parts,
    prepare_turn,
)
from video_llama.apps.server.scheduler import AnswerEvent, DecodeJob, FinishedAnswer, Scheduler, SchedulerStoppedError
from video_llama.apps.server.settings import ServerSettings
from video_llama.apps.server.timeline import WINDOWS_TOGETHER, TimelineWork
from video_llama.chat.assistant import Assistant
from video_llama.chat.engine import EncodedMedium, PreparedTurn
from video_llama.chat.timeline import Timeline
from video_llama.errors import CheckpointError, ContextLengthError, MediaError, PromptError
from video_llama.log import logger
from video_llama.processors.medium import MediaOptions

INITIAL_REQUEST_SECONDS = 1.0
"""Expected duration of a request before the first one has ended."""


class PendingAnswers:
    """The answers to one request. ``close`` releases their places at once; it may be called more than once."""

    def __init__(self, service: Service, num_answers: int, deadline: float) -> None:
        self._service, self._deadline = service, deadline
        self._num_answers, self._started_at = num_answers, time.perf_counter()
        self._events: asyncio.Queue[tuple[int, AnswerEvent]] = asyncio.Queue()
        self._jobs: list[DecodeJob] = []
        self._is_closed = False

    def submit(self, turns: Sequence[PreparedTurn], media_keys: Sequence[str], stops: Sequence[str]) -> None:
        """Submit the turns, one per choice, to the scheduler."""
        loop, put = asyncio.get_running_loop(), self._events.put_nowait
        for index, turn in enumerate(turns):
            # Not a method: a job with a reference to its answers would form a cycle, which keeps the media in memory
            # until the next full garbage collection, thousands of requests later.
            def emit(event: AnswerEvent, index: int = index) -> None:
                with suppress(RuntimeError):  # the event loop is closed
                    loop.call_soon_threadsafe(put, (index, event))

            job = DecodeJob(turn, tuple(media_keys), tuple(stops), emit)
            self._jobs.append(job)
            self._service.scheduler.submit(job)

    async def events(self) -> AsyncIterator[tuple[int, str | FinishedAnswer]]:
        """Yield pieces of text and finished answers with the index of their choice.

        Raises ApiError if an answer fails or the time limit is exceeded.
        """
        num_ended = 0
        while num_ended < self._num_answers:
            try:
                left = max(0.0, self._deadline - time.monotonic())
                index, event = await asyncio.wait_for(self._events.get(), left)
            except asyncio.TimeoutError as error:
                raise self._service.timeout_error() from error
            if isinstance(event, Exception):
                raise as_api_error(event) from event
            num_ended += isinstance(event, FinishedAnswer)
            yield index, event

    def close(self) -> None:
        """Cancel unfinished answers and release the places."""
        if self._is_closed:
            return
        self._is_closed = True
        for job in self._jobs:
            job.cancelled.set()
        self._service.release(self._num_answers, time.perf_counter() - self._started_at)


class Service:
    """Answers requests with one model: queue, media pool, caches, scheduler and metrics."""

    def __init__(self, assistant: Assistant, settings: ServerSettings) -> None:
        self.settings, self.metrics = settings, Metrics()
        self.model, self.notice = assistant.name, assistant.notice
        self._engine = assistant.engine
        self._cache_limit = CacheLimit.of(self._engine, settings.cache_bytes)
        self.metrics.cache_limit_bytes.set(self._cache_limit.num_bytes)
        self.scheduler = Scheduler(
            self._engine,
            self.metrics,
            max_rows=settings.max_rows,
            prefix_tokens=settings.prefix_cache_tokens,
            prefill_chunk_tokens=settings.prefill_chunk_tokens,
            max_pause=settings.max_pause,
            min_pause=settings.min_pause,
            cache_limit=self._cache_limit,
        )
        self._pool = MediaPool(self._engine, settings, self.metrics.worker_deaths.inc)
        entries = settings.media_cache_entries
        self._media_cache = MediaCache(
            self._engine,
            self._pool,
            self.scheduler,
            self.metrics,
            max_entries=entries,
            max_bytes=self._cache_limit.media_bytes,
        )
        self._media_input = MediaInput(settings)
        self._num_places, self._num_taken = settings.max_rows + settings.max_queue, 0
        self._mean_seconds = INITIAL_REQUEST_SECONDS

    @property
    def num_taken(self) -> int:
        """Number of answers that are running, waiting, or whose media are being read."""
        return self._num_taken

    @property
    def num_running(self) -> int:
        """Number of answers being generated."""
        return self.scheduler.num_running

    @property
    def media_pids(self) -> list[int]:
        """Process ids of the processes that decode media."""
        return self._pool.pids

    async def start(self) -> None:
        """Start the scheduler and the first media process."""
        self.scheduler.start()
        await self._pool.warm()

    async def stop(self) -> None:
        """Cancel unfinished work and stop the scheduler and the media processes."""
        await asyncio.to_thread(self.scheduler.stop)
        await self._pool.close()

    async def answer(self, request: ChatRequest) -> PendingAnswers:
        """Accept a request and return its answers, which occupy places until they are closed.

        Raises ApiError, and then occupies no places: 4xx for an invalid request, 429 if all places are taken, 500 for a
        failure, 503 during shutdown, 504 if the time limit is exceeded.
        """
        check_request(request, self.settings, self.model)
        self._take(request.n)
        answers = PendingAnswers(self, request.n, time.monotonic() + self.settings.request_seconds)
        try:
            await asyncio.wait_for(self._prepare(request, answers), self.settings.request_seconds)
        except asyncio.TimeoutError as error:
            answers.close()
            raise self.timeout_error() from error
        except Exception as error:
            answers.close()
            api_error = as_api_error(error)
            # The traceback references the task, and the task the error: a cycle that would keep the request in memory.
            raise api_error from error.with_traceback(None)
        except BaseException:
            answers.close()
            raise
        return answers

    async def timeline(self, request: ChatRequest) -> tuple[Timeline, list[FinishedAnswer]]:
        """Return the timeline of a request with ``window``, and its answers. Raises ApiError as :func:`answer`."""
        check_request(request, self.settings, self.model)
        num_places = min(WINDOWS_TOGETHER, self._num_places)
        self._take(num_places)
        started = time.perf_counter()
        try:
            return await asyncio.wait_for(self._timeline(request), self.settings.request_seconds)
        except asyncio.TimeoutError as error:
            raise self.timeout_error() from error
        except Exception as error:
            raise as_api_error(error) from error.with_traceback(None)
        finally:
            self.release(num_places, time.perf_counter() - started)

    async def _timeline(self, request: ChatRequest) -> tuple[Timeline, list[FinishedAnswer]]:
        work = TimelineWork(self._engine, self._pool, self.scheduler, self.settings, self._cache_limit)
        options = media_options(request, self._engine.settings.num_frames)
        [(location, part)] = media_parts(request)
        [decoding] = decodings(request, self._engine, self.settings)
        try:
            content = await asyncio.to_thread(self._media_input.get, part, location)
            return await work.answer(request, content, options, decoding)
        except MediaError as error:
            raise _bad_media(error, part, location) from error.with_traceback(None)

    def release(self, num_answers: int, seconds: float) -> None:
        """Release places. Called by ``PendingAnswers.close`` with the duration of the request."""
        self._num_taken -= num_answers
        self._mean_seconds += 0.1 * (seconds - self._mean_seconds)
        self.metrics.request_seconds.observe(seconds)

    def timeout_error(self) -> ApiError:
        """Return the error of a request that exceeds its time limit."""
        seconds = self.settings.request_seconds
        return ApiError(504, f"No answer within {seconds:g} s. Request fewer tokens, send shorter media, or try later.")

    def _take(self, num_answers: int) -> None:
        if self._num_taken + num_answers > self._num_places:
            wait = max(1, round(self._mean_seconds))
            message = f"All {self._num_places} places are taken. Try again in {wait} s."
            raise ApiError(429, message, code="queue_full", headers={"Retry-After": str(wait)})
        self._num_taken += num_answers

    async def _prepare(self, request: ChatRequest, answers: PendingAnswers) -> None:
        options = media_options(request, self._engine.settings.num_frames)
        keyed = [await self._encoded(part, location, options) for location, part in media_parts(request)]
        media = [medium for _, medium in keyed]
        turns = [
            await asyncio.to_thread(prepare_turn, request, self._engine, media, decoding)
            for decoding in decodings(request, self._engine, self.settings)
        ]
        for turn in turns:
            self._cache_limit.check(turn)
        stops = [request.stop] if isinstance(request.stop, str) else request.stop
        answers.submit(turns, [key for key, _ in keyed], [stop for stop in stops if stop])

    async def _encoded(self, part: MediaPart, location: str, options: MediaOptions) -> tuple[str, EncodedMedium]:
        """Return the key and the encoded medium of a part. Raises ApiError with its location."""
        try:
            content = await asyncio.to_thread(self._media_input.get, part, location)
            return await self._media_cache.encoded(content, options)
        except MediaError as error:
            # The traceback references the task, and the task the error.
            raise _bad_media(error, part, location) from error.with_traceback(None)


def _bad_media(error: MediaError, part: MediaPart, location: str) -> ApiError:
    field, message = field_of(location, part), str(error)
    if not message.startswith(location):  # content without a name of its own is named by its location
        message = f"{field}: {message}"
    return ApiError(400, message, code="bad_media", param=field)


def as_api_error(error: Exception) -> ApiError:
    """Return the error to send to the client. The details of unexpected errors are logged and not sent."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, MediaError):
        return ApiError(400, str(error), code="bad_media", param="messages")
    if isinstance(error, PromptError):
        codes = {ContextLengthError: "context_length_exceeded", CacheTooSmallError: "cache_too_small"}
        code = codes.get(type(error))
        return ApiError(400, str(error), code=code, param="messages")
    if isinstance(error, SchedulerStoppedError):
        return ApiError(503, "The server is shutting down. Try again later.", headers={"Retry-After": "5"})
    if isinstance(error, CheckpointError):
        return ApiError(500, str(error))
    logger.error("A request failed.", exc_info=error)
    return ApiError(500, "The server failed to answer. See the server log for details.")
