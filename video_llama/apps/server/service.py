"""A chat request from its arrival to its end: a place in the queue, its media, its answers, its deadline."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress

from video_llama.apps.media.pool import MediaPool
from video_llama.apps.server.errors import ApiError
from video_llama.apps.server.media_cache import MediaCache
from video_llama.apps.server.media_input import MediaInput
from video_llama.apps.server.metrics import Metrics
from video_llama.apps.server.protocol import ChatRequest
from video_llama.apps.server.request import check_request, decodings, media_options, media_parts, prepare_turn
from video_llama.apps.server.scheduler import DecodeJob, Event, FinishedAnswer, Scheduler, SchedulerStoppedError
from video_llama.apps.server.settings import ServerSettings
from video_llama.chat.assistant import Assistant
from video_llama.chat.engine import PreparedTurn
from video_llama.errors import CheckpointError, MediaError, PromptError
from video_llama.log import logger

FIRST_GUESS_SECONDS = 1.0
"""How long a request may be expected to take before one has ended."""


class PendingAnswers:
    """The answers to one request. ``close`` frees their places at once; it may be called twice."""

    def __init__(self, service: Service, num_answers: int, deadline: float) -> None:
        self._service, self._deadline = service, deadline
        self._num_answers, self._started_at = num_answers, time.perf_counter()
        self._events: asyncio.Queue[tuple[int, Event]] = asyncio.Queue()
        self._orders: list[DecodeJob] = []
        self._is_closed = False

    def order(self, turns: Sequence[PreparedTurn], media_keys: Sequence[str], stops: Sequence[str]) -> None:
        """Hand the turns, one per choice, to the model."""
        loop, put = asyncio.get_running_loop(), self._events.put_nowait
        for number, turn in enumerate(turns):
            # Without self: an order that leads back to its answers is a cycle, and would keep its media until Python's
            # next full collection, thousands of requests later.
            def emit(event: Event, number: int = number) -> None:
                with suppress(RuntimeError):  # the event loop has ended: nobody listens
                    loop.call_soon_threadsafe(put, (number, event))

            order = DecodeJob(turn, tuple(media_keys), tuple(stops), emit)
            self._orders.append(order)
            self._service.scheduler.submit(order)

    async def events(self) -> AsyncIterator[tuple[int, str | FinishedAnswer]]:
        """Pieces of text, and for each choice its end. Raises ApiError for a failure and past the deadline."""
        num_ended = 0
        while num_ended < self._num_answers:
            try:
                left = max(0.0, self._deadline - time.monotonic())
                number, event = await asyncio.wait_for(self._events.get(), left)
            except asyncio.TimeoutError as error:
                raise self._service.too_late() from error
            if isinstance(event, Exception):
                raise as_api_error(event) from event
            num_ended += isinstance(event, FinishedAnswer)
            yield number, event

    def close(self) -> None:
        """Give up what is not done yet."""
        if self._is_closed:
            return
        self._is_closed = True
        for order in self._orders:
            order.cancelled.set()
        self._service.release(self._num_answers, time.perf_counter() - self._started_at)


class Service:
    """One model, and everything that stands between it and requests."""

    def __init__(self, assistant: Assistant, settings: ServerSettings) -> None:
        self.settings, self.metrics = settings, Metrics()
        self.model, self.notice = assistant.name, assistant.notice
        self._engine = assistant.engine
        self.scheduler = Scheduler(
            self._engine, self.metrics, max_rows=settings.max_rows, prefix_tokens=settings.prefix_cache_tokens
        )
        self._pool = MediaPool(self._engine, settings, self.metrics.worker_deaths.inc)
        entries = settings.media_cache_entries
        self._media_cache = MediaCache(self._engine, self._pool, self.scheduler, self.metrics, max_entries=entries)
        self._media_input = MediaInput(settings)
        self._num_places, self._num_taken = settings.max_rows + settings.max_queue, 0
        self._usual_seconds = FIRST_GUESS_SECONDS

    @property
    def num_taken(self) -> int:
        """Answers that are running, waiting, or having their media read."""
        return self._num_taken

    @property
    def num_running(self) -> int:
        """Answers that are being decoded."""
        return self.scheduler.num_running

    @property
    def media_pids(self) -> list[int]:
        """The processes that decode media."""
        return self._pool.pids

    async def start(self) -> None:
        """Begin to answer."""
        self.scheduler.start()
        await self._pool.warm()

    async def stop(self) -> None:
        """Give up what is left, and end thread and processes."""
        await asyncio.to_thread(self.scheduler.stop)
        await self._pool.close()

    async def answer(self, request: ChatRequest) -> PendingAnswers:
        """Take a request in. The answers hold places until they are closed; whatever is raised, none is held.

        Raises ApiError: 4xx for a request that cannot be served, 429 where every place is taken, 503, 504.
        """
        check_request(request, self.settings, self.model)
        self._take(request.n)
        answers = PendingAnswers(self, request.n, time.monotonic() + self.settings.request_seconds)
        try:
            await asyncio.wait_for(self._prepare(request, answers), self.settings.request_seconds)
        except asyncio.TimeoutError as error:
            answers.close()
            raise self.too_late() from error
        except Exception as error:
            answers.close()
            refusal = as_api_error(error)
            # The error lies in a task that lies in a frame of the error's traceback: a cycle that holds the request.
            raise refusal from error.with_traceback(None)
        except BaseException:
            answers.close()
            raise
        return answers

    def release(self, num_answers: int, seconds: float) -> None:
        """Give places back; ``PendingAnswers.close`` does."""
        self._num_taken -= num_answers
        self._usual_seconds += 0.1 * (seconds - self._usual_seconds)
        self.metrics.request_seconds.observe(seconds)

    def too_late(self) -> ApiError:
        """The error of a request past its deadline."""
        seconds = self.settings.request_seconds
        return ApiError(504, f"No answer within {seconds:g} s. Ask for fewer tokens or shorter media, or try later.")

    def _take(self, num_answers: int) -> None:
        if self._num_taken + num_answers > self._num_places:
            wait = max(1, round(self._usual_seconds))
            message = f"All {self._num_places} places are taken. Try again in {wait} s."
            raise ApiError(429, message, code="queue_full", headers={"Retry-After": str(wait)})
        self._num_taken += num_answers

    async def _prepare(self, request: ChatRequest, answers: PendingAnswers) -> None:
        options = media_options(request, self._engine.settings.num_frames)
        keyed = [
            await self._media_cache.medium(await asyncio.to_thread(self._media_input.get, part, place), options)
            for place, part in media_parts(request)
        ]
        media = [medium for _, medium in keyed]
        turns = [
            await asyncio.to_thread(prepare_turn, request, self._engine, media, decoding)
            for decoding in decodings(request, self._engine, self.settings)
        ]
        stops = [request.stop] if isinstance(request.stop, str) else request.stop or []
        answers.order(turns, [key for key, _ in keyed], stops)


def as_api_error(error: Exception) -> ApiError:
    """What a client is told of an error: its words where the request is at fault, nothing of ours where it is not."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, MediaError):
        return ApiError(400, str(error), code="bad_media", param="messages")
    if isinstance(error, PromptError):
        return ApiError(400, str(error), code="context_length_exceeded", param="messages")
    if isinstance(error, SchedulerStoppedError):
        return ApiError(503, "The server is shutting down. Try again later.", headers={"Retry-After": "5"})
    if isinstance(error, CheckpointError):
        return ApiError(500, str(error))
    logger.error("A request failed.", exc_info=error)
    return ApiError(500, "The server failed to answer. Its log says why.")
