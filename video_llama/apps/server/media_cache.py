"""Media that were encoded before, by their content: a second request about the same file costs no decoding."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections import OrderedDict
from dataclasses import dataclass, replace

from video_llama.apps.media.pool import MediaPool
from video_llama.apps.server.media_input import MediaBytes
from video_llama.apps.server.metrics import Metrics
from video_llama.apps.server.scheduler import Scheduler
from video_llama.chat.engine import EncodedMedium, Engine
from video_llama.processors.medium import MediaOptions

ENCODED, SHARED, KEPT = "encoded", "shared", "kept"
"""Where a medium came from: made now, being made for another request, made before."""


@dataclass
class _Making:
    """A medium being made, and how many requests wait for it."""

    task: asyncio.Task[EncodedMedium]
    num_waiting: int = 0


class MediaCache:
    """Encodes each content once and keeps the ``max_entries`` used last."""

    def __init__(
        self, engine: Engine, pool: MediaPool, thread: Scheduler, metrics: Metrics, *, max_entries: int
    ) -> None:
        self._engine, self._pool, self._thread, self._metrics = engine, pool, thread, metrics
        self._max_entries = max_entries
        self._kept: OrderedDict[str, EncodedMedium] = OrderedDict()
        self._making: dict[str, _Making] = {}

    async def medium(self, content: MediaBytes, options: MediaOptions) -> tuple[str, EncodedMedium]:
        """A medium's key (equal contents, read alike, have equal keys) and its tokens, under the name it has here.

        Raises as ``MediaPool.read`` does.
        """
        digest = await asyncio.to_thread(lambda: hashlib.sha256(content.data).hexdigest())
        key = f"{digest} {content.kind} {options}"
        medium = self._kept.get(key)
        if medium is None:
            medium = await self._made(key, content, options)
        else:
            self._kept.move_to_end(key)
            self._metrics.media.labels(KEPT).inc()
            medium = replace(medium, decode_seconds=0.0, encode_seconds=0.0)
        return key, replace(medium, read=replace(medium.read, source=content.name))

    async def _made(self, key: str, content: MediaBytes, options: MediaOptions) -> EncodedMedium:
        """Make it, or wait with those who do; the work ends early only when nobody waits any more."""
        making = self._making.get(key)
        self._metrics.media.labels(ENCODED if making is None else SHARED).inc()
        if making is None:
            making = self._making[key] = _Making(asyncio.create_task(self._make(key, content, options)))
        making.num_waiting += 1
        try:
            return await asyncio.shield(making.task)
        finally:
            making.num_waiting -= 1
            if making.num_waiting == 0:
                making.task.cancel()
                if self._making.get(key) is making:
                    del self._making[key]

    async def _make(self, key: str, content: MediaBytes, options: MediaOptions) -> EncodedMedium:
        start = time.perf_counter()
        read = await self._pool.read(content.data, content.name, content.kind, options)
        seconds = time.perf_counter() - start
        call = self._thread.call(lambda: self._engine.encode(read, options))
        medium = replace(await asyncio.wrap_future(call), decode_seconds=seconds)
        self._kept[key] = medium
        while len(self._kept) > self._max_entries:
            self._kept.popitem(last=False)
        return medium
