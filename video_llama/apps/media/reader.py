"""The pool of media processes for programs that run in threads, as the web page does."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, TypeVar

from video_llama.apps.media.limits import MediaLimits
from video_llama.apps.media.pool import MediaPool
from video_llama.chat.engine import Engine
from video_llama.errors import MediaError
from video_llama.processors.medium import MediaOptions, ReadMedium

Result = TypeVar("Result")


class MediaReader:
    """Reads files in processes of their own; any thread may. ``close`` ends the processes."""

    def __init__(self, engine: Engine, limits: MediaLimits) -> None:
        self._pool = MediaPool(engine, limits)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="video-llama-media", daemon=True)
        self._thread.start()
        self._run(self._pool.warm())

    @property
    def pids(self) -> list[int]:
        """The processes there are."""
        return self._pool.pids

    def read(self, path: Path, options: MediaOptions) -> ReadMedium:
        """A file's frames and sound, under its name. Raises MediaError as ``MediaPool.read``, or if it is not there."""
        try:
            data = path.read_bytes()
        except OSError as error:
            raise MediaError(f"{path.name} cannot be read ({error.strerror}). Give it again.") from error
        return self._run(self._pool.read(data, path.name, None, options))

    def close(self) -> None:
        """End every process; what is being read then fails."""
        self._run(self._end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _end(self) -> None:
        await self._pool.close()
        reading = asyncio.all_tasks() - {asyncio.current_task()}
        for task in reading:
            task.cancel()
        await asyncio.gather(*reading, return_exceptions=True)

    def _run(self, work: Coroutine[Any, Any, Result]) -> Result:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()
