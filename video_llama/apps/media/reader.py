"""The media pool for multithreaded programs, such as the web page."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine, Sequence
from pathlib import Path
from typing import Any, TypeVar

from video_llama.apps.media.limits import MediaLimits
from video_llama.apps.media.pool import MediaNeeds, MediaPool
from video_llama.chat.engine import Engine
from video_llama.errors import MediaError
from video_llama.processors.medium import MediaOptions, ReadMedium
from video_llama.processors.scene_cuts import ScenePlan
from video_llama.processors.windows import Window, WindowPlan

Result = TypeVar("Result")


class MediaReader:
    """Read files in separate processes, from any thread. ``close`` ends the processes."""

    def __init__(self, model: Engine | MediaNeeds, limits: MediaLimits) -> None:
        self._pool = MediaPool(model, limits)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="video-llama-media", daemon=True)
        self._thread.start()
        self._run(self._pool.warm())

    @property
    def pids(self) -> list[int]:
        """Process ids of the running processes."""
        return self._pool.pids

    def read(self, path: Path, options: MediaOptions) -> ReadMedium:
        """Read the frames and sound of a file. Raises MediaError as ``MediaPool.read``, and if the file is missing."""
        try:
            data = path.read_bytes()
        except OSError as error:
            raise MediaError(f"{path.name} cannot be read ({error.strerror}). Add the file again.") from error
        return self.read_data(data, path.name, options)

    def read_data(self, data: bytes, name: str, options: MediaOptions) -> ReadMedium:
        """Read the frames and sound of the content of a file. Raises MediaError as ``MediaPool.read``."""
        return self._run(self._pool.read(data, name, None, options))

    def plan_windows(
        self, data: bytes, name: str, options: MediaOptions, plan: WindowPlan | ScenePlan
    ) -> tuple[float, list[Window]]:
        """Return the duration of the content of a file, and its windows. Raises as ``MediaPool.plan_windows``."""
        return self._run(self._pool.plan_windows(data, name, None, options, plan))

    def read_windows(
        self, data: bytes, name: str, options: MediaOptions, windows: Sequence[Window]
    ) -> list[ReadMedium]:
        """Read windows of the content of a file. Raises as ``MediaPool.read_windows``."""
        return self._run(self._pool.read_windows(data, name, None, options, windows))

    def close(self) -> None:
        """End all processes; reads in progress fail."""
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
