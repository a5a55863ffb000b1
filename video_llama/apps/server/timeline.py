"""Answer a request with ``video_llama.window`` or ``scenes``: each window of one medium, merged into a timeline.

A few windows at a time are read in a media process, encoded and decoded in the batch of the scheduler, next to the
answers to other requests. Such a request occupies as many places as windows that are answered together.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

from video_llama.apps.media.pool import MediaPool
from video_llama.apps.server.cache_limit import CacheLimit
from video_llama.apps.server.errors import ApiError
from video_llama.apps.server.media_input import MediaBytes
from video_llama.apps.server.protocol import ChatRequest
from video_llama.apps.server.replies import (
    AnswerMessage,
    ChatCompletion,
    Choice,
    ReplyExtension,
    TimelinePart,
    TimelineReply,
    Usage,
)
from video_llama.apps.server.request import prepare_turn
from video_llama.apps.server.scheduler import AnswerEvent, DecodeJob, FinishedAnswer, Scheduler
from video_llama.apps.server.settings import ServerSettings
from video_llama.chat.decoding import Decoding
from video_llama.chat.engine import EncodedMedium, Engine, PreparedTurn
from video_llama.chat.record import Answer
from video_llama.chat.timeline import Timeline, WindowAnswer
from video_llama.chat.timeline_formats import timeline_text
from video_llama.chat.window_answers import summary_turn
from video_llama.processors.medium import MediaOptions, ReadMedium
from video_llama.processors.scene_cuts import ScenePlan
from video_llama.processors.windows import Window, WindowPlan

WINDOWS_TOGETHER = 4
"""Windows of one request that are answered at the same time."""


@dataclass(frozen=True)
class TimelineWork:
    """What answers timelines: the parts of the service."""

    engine: Engine
    pool: MediaPool
    scheduler: Scheduler
    settings: ServerSettings
    cache_limit: CacheLimit

    async def answer(
        self, request: ChatRequest, content: MediaBytes, options: MediaOptions, decoding: Decoding
    ) -> tuple[Timeline, list[FinishedAnswer]]:
        """Return the timeline of a medium, and the finished answers of its windows and summary."""
        extension = request.video_llama
        plan: WindowPlan | ScenePlan = ScenePlan(max_seconds=extension.window)
        if not extension.scenes:
            assert extension.window is not None, "is_timeline"
            plan = WindowPlan(extension.window, extension.stride)
        duration, windows = await self.pool.plan_windows(content.data, content.name, content.kind, options, plan)
        limit = self.settings.max_windows
        if len(windows) > limit:
            message = f"{len(windows)} windows in {duration:.1f} s, but the limit of this server is {limit:,}."
            raise ApiError(400, f"{message} Use a longer window and stride, or a segment.", param="video_llama.window")
        finished: list[FinishedAnswer] = []
        for first in range(0, len(windows), WINDOWS_TOGETHER):
            finished += await self._chunk(
                request, content, options, decoding, windows[first : first + WINDOWS_TOGETHER]
            )
        answers = [
            WindowAnswer(window, Answer(each.text, each.record)) for window, each in zip(windows, finished, strict=True)
        ]
        question = answers[0].answer.record.question
        timeline = Timeline(content.name, round(duration, 3), question, plan.as_dict(), tuple(answers))
        if extension.summary:
            turn = await asyncio.to_thread(summary_turn, self.engine, timeline, decoding)
            [summary] = await self._finished([turn], [()], request)
            finished.append(summary)
            timeline = replace(timeline, summary=Answer(summary.text, summary.record))
        return timeline, finished

    async def _chunk(
        self,
        request: ChatRequest,
        content: MediaBytes,
        options: MediaOptions,
        decoding: Decoding,
        windows: Sequence[Window],
    ) -> list[FinishedAnswer]:
        start = time.perf_counter()
        read = await self.pool.read_windows(content.data, content.name, content.kind, options, windows)
        seconds = (time.perf_counter() - start) / len(windows)
        media = [replace(await self._encoded(each), decode_seconds=seconds) for each in read]
        turns = [await asyncio.to_thread(prepare_turn, request, self.engine, [each], decoding) for each in media]
        # The prefix cache compares keys: those of windows are their own.
        keys = [(f"{uuid.uuid4().hex}",) for _ in windows]
        return await self._finished(turns, keys, request)

    async def _encoded(self, read: ReadMedium) -> EncodedMedium:
        """Encode a window in steps between the tokens of other answers."""
        call = self.scheduler.call_steps(lambda: self.engine.encode_steps(read))
        return await asyncio.wrap_future(call)

    async def _finished(
        self, turns: Sequence[PreparedTurn], keys: Sequence[tuple[str, ...]], request: ChatRequest
    ) -> list[FinishedAnswer]:
        """Decode prompts together and return their answers; cancel them if the request ends.

        Raises CacheTooSmallError as ``CacheLimit.check``.
        """
        for turn in turns:
            self.cache_limit.check(turn)
        stops = [request.stop] if isinstance(request.stop, str) else request.stop
        loop = asyncio.get_running_loop()
        jobs, futures = [], []
        for turn, media_keys in zip(turns, keys, strict=True):
            future: asyncio.Future[FinishedAnswer] = loop.create_future()

            def emit(event: AnswerEvent, future: asyncio.Future[FinishedAnswer] = future) -> None:
                with suppress(RuntimeError):  # the event loop is closed
                    loop.call_soon_threadsafe(_settle, future, event)

            job = DecodeJob(turn, media_keys, tuple(stop for stop in stops if stop), emit)
            self.scheduler.submit(job)
            jobs.append(job)
            futures.append(future)
        try:
            return list(await asyncio.gather(*futures))
        finally:
            for job in jobs:
                job.cancelled.set()


def _settle(future: asyncio.Future[FinishedAnswer], event: AnswerEvent) -> None:
    if future.done():
        return
    if isinstance(event, Exception):
        future.set_exception(event)
    elif isinstance(event, FinishedAnswer):
        future.set_result(event)


def timeline_completion(
    request: ChatRequest, timeline: Timeline, finished: Sequence[FinishedAnswer], notice: str
) -> ChatCompletion:
    """Return the response: the timeline as text, and as data in the extension key."""
    records = [answer.record for answer in finished]
    counts = [sum(record.tokens[name] for record in records) for name in ("prompt", "generated", "reused")]
    summary = None if timeline.summary is None else timeline.summary.text
    reply = TimelineReply(
        duration=timeline.duration,
        **timeline.windowing,
        entries=[TimelinePart(**entry.as_dict()) for entry in timeline.entries],
        summary=summary,
    )
    is_cut = any(answer.reason == "length" for answer in finished)
    return ChatCompletion(
        id=f"chatcmpl-{uuid.uuid4().hex}",
        created=int(time.time()),
        model=request.model,
        choices=[
            Choice(
                index=0,
                message=AnswerMessage(content=timeline_text(timeline.entries, summary)),
                finish_reason="length" if is_cut else "stop",
            )
        ],
        usage=Usage.of(*counts),
        video_llama=ReplyExtension(
            notice=notice,
            records=[record.public_dict() for record in records] if request.video_llama.record else None,
            timeline=reply,
        ),
    )
