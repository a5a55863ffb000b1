"""A cache of encoded media, keyed by content: repeated requests about a file neither decode nor encode it again."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections import OrderedDict
from dataclasses import dataclass, replace

from video_llama.apps.media.pool import MediaPool
from video_llama.apps.server.cache_limit import medium_bytes
from video_llama.apps.server.media_input import MediaBytes
from video_llama.apps.server.metrics import Metrics
from video_llama.apps.server.scheduler import Scheduler
from video_llama.chat.engine import EncodedMedium, Engine
from video_llama.processors.medium import MediaOptions

ENCODED, SHARED, KEPT = "encoded", "shared", "kept"
"""Source of a medium in the metrics: newly encoded, shared with a concurrent request, or taken from the cache."""


@dataclass
class _Encoding:
    """A medium that is being encoded, and the number of requests that wait for it."""

    task: asyncio.Task[EncodedMedium]
    num_waiting: int = 0


class MediaCache:
    """Encodes each content once and keeps the most recently used media: ``max_entries``, of ``max_bytes`` together."""

    def __init__(
        self,
        engine: Engine,
        pool: MediaPool,
        scheduler: Scheduler,
        metrics: Metrics,
        *,
        max_entries: int,
        max_bytes: int,
    ) -> None:
        self._engine, self._pool, self._scheduler, self._metrics = engine, pool, scheduler, metrics
        self._max_entries, self._max_bytes = max_entries, max_bytes
        self._num_bytes = 0
        self._kept: OrderedDict[str, EncodedMedium] = OrderedDict()
        self._encoding: dict[str, _Encoding] = {}

    async def encoded(self, content: MediaBytes, options: MediaOptions) -> tuple[str, EncodedMedium]:
        """Return the key and the encoded medium of a content.

        Equal contents that are read with equal options have equal keys. The source of the returned medium is the name
        of ``content``. Raises MediaError like ``MediaPool.read``.
        """
        digest = await asyncio.to_thread(lambda: hashlib.sha256(content.data).hexdigest())
        key = f"{digest} {content.kind} {options}"
        medium = self._kept.get(key)
        if medium is None:
            medium = await self._wait_for(key, content, options)
        else:
            self._kept.move_to_end(key)
            self._metrics.media.labels(KEPT).inc()
            medium = replace(medium, decode_seconds=0.0, encode_seconds=0.0)
        return key, replace(medium, read=replace(medium.read, source=content.name))

    async def _wait_for(self, key: str, content: MediaBytes, options: MediaOptions) -> EncodedMedium:
        """Encode a medium, or wait for the request that does. The work is cancelled when no request waits any more."""
        encoding = self._encoding.get(key)
        self._metrics.media.labels(ENCODED if encoding is None else SHARED).inc()
        if encoding is None:
            encoding = self._encoding[key] = _Encoding(asyncio.create_task(self._encode(key, content, options)))
        encoding.num_waiting += 1
        try:
            return await asyncio.shield(encoding.task)
        finally:
            encoding.num_waiting -= 1
            if encoding.num_waiting == 0:
                encoding.task.cancel()
                if self._encoding.get(key) is encoding:
                    del self._encoding[key]

    async def _encode(self, key: str, content: MediaBytes, options: MediaOptions) -> EncodedMedium:
        start = time.perf_counter()
        read = await self._pool.read(content.data, content.name, content.kind, options)
        seconds = time.perf_counter() - start
        call = self._scheduler.call_steps(lambda: self._engine.encode_steps(read))
        medium = replace(await asyncio.wrap_future(call), decode_seconds=seconds)
        self._kept[key] = medium
        self._num_bytes += medium_bytes(medium)
        while len(self._kept) > self._max_entries or self._num_bytes > self._max_bytes:
            self._num_bytes -= medium_bytes(self._kept.popitem(last=False)[1])
        self._metrics.cache_bytes.labels("media").set(self._num_bytes)
        return medium
