"""A pool of media processes, which are started on demand, killed if they exceed a limit, and replaced."""

from __future__ import annotations

import asyncio
import os
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import video_llama
from video_llama.apps.media.limits import MediaLimits
from video_llama.apps.media.wire import (
    LENGTH,
    Fields,
    WireError,
    array_sizes,
    header_length,
    options_fields,
    pack,
    parse_header,
    unpack_medium,
)
from video_llama.chat.engine import Engine
from video_llama.errors import MediaError
from video_llama.log import logger
from video_llama.processors.media_file import MediaKind
from video_llama.processors.medium import MediaOptions, ReadMedium
from video_llama.processors.scene_cuts import ScenePlan
from video_llama.processors.settings import ProcessorSettings
from video_llama.processors.windows import Window, WindowPlan

COMMAND = (sys.executable, "-m", "video_llama.apps.media.process")
START_SECONDS = 120
"""Maximum time to start a process, including on a busy machine."""
NUM_USES = 500
"""Number of media after which a process is replaced, to bound memory leaks of libraries."""


@dataclass(frozen=True)
class MediaNeeds:
    """What reading media requires of a model: the part of an engine that other processes can be sent."""

    settings: ProcessorSettings
    max_frames: int
    """Number of frame positions."""
    with_audio_branch: bool

    @staticmethod
    def of(engine: Engine) -> MediaNeeds:
        """Return the needs of a loaded model."""
        return MediaNeeds(engine.settings, engine.max_frames, engine.config.with_audio_branch)


class MediaPool:
    """Read media in separate processes. ``on_death`` is called for each process that died or was killed."""

    def __init__(
        self, model: Engine | MediaNeeds, limits: MediaLimits, on_death: Callable[[], None] = lambda: None
    ) -> None:
        needs = MediaNeeds.of(model) if isinstance(model, Engine) else model
        self._seconds, self._on_death = limits.media_worker_seconds, on_death
        self._task: Fields = {
            **asdict(needs),
            "max_seconds": limits.max_media_seconds,
            "max_pixels": limits.max_media_pixels,
            "memory_bytes": limits.media_worker_bytes,
        }
        self._places = asyncio.Semaphore(limits.media_workers)
        self._idle: list[_Worker] = []
        self._all: set[_Worker] = set()
        self._dying: set[_Worker] = set()

    @property
    def pids(self) -> list[int]:
        """Process ids of the running processes."""
        return [worker.process.pid for worker in self._all]

    async def read(self, data: bytes, name: str, kind: MediaKind | None, options: MediaOptions) -> ReadMedium:
        """Read the frames and sound of a medium. Raises MediaError if it cannot be used or its process died."""
        [(reply, blobs)] = await self._ask(data, name, {"medium_kind": kind, "options": options_fields(options)})
        return _unpacked(reply, blobs, name)

    async def plan_windows(
        self, data: bytes, name: str, kind: MediaKind | None, options: MediaOptions, plan: WindowPlan | ScenePlan
    ) -> tuple[float, list[Window]]:
        """Return the duration of a medium in seconds, and its windows. Raises MediaError as :func:`read`."""
        fields = {
            "medium_kind": kind,
            "options": options_fields(options),
            "plan": asdict(plan),
            "is_scenes": isinstance(plan, ScenePlan),
        }
        [(reply, _)] = await self._ask(data, name, fields)
        _raise_if_error(reply, name)
        try:
            return float(reply["duration"]), [Window(float(start), float(end)) for start, end in reply["windows"]]
        except (KeyError, TypeError, ValueError) as error:
            raise MediaError(f"{name} could not be decoded. Convert it: ffmpeg -i FILE out.mp4") from error

    async def read_windows(
        self, data: bytes, name: str, kind: MediaKind | None, options: MediaOptions, windows: Sequence[Window]
    ) -> list[ReadMedium]:
        """Read windows of a medium, in the order of their starts. Raises MediaError as :func:`read`.

        The time limit of one medium applies to all of them together.
        """
        spans = [[window.start, window.end] for window in windows]
        fields = {"medium_kind": kind, "options": options_fields(options), "windows": spans}
        return [_unpacked(*reply, name) for reply in await self._ask(data, name, fields, len(spans))]

    async def _ask(
        self, data: bytes, name: str, fields: Fields, num_replies: int = 1
    ) -> list[tuple[Fields, list[bytes]]]:
        """Send a request to a process and return its replies, or those until an error."""
        fields = {"name": name, "bytes": len(data), **fields}
        async with self._places:
            worker = self._idle_worker() or await self._start()
            is_usable = False
            try:
                await _begin(worker, name)
                replies = await asyncio.wait_for(worker.ask(fields, data, num_replies), self._seconds)
                is_usable = replies[-1][0].get("kind") not in ("memory", "bug")
            except asyncio.TimeoutError as error:
                raise MediaError(
                    f"{name} took longer than {self._seconds:g} s to decode. Use a shorter or simpler file."
                ) from error
            except (asyncio.IncompleteReadError, ConnectionError, WireError) as error:
                logger.warning("A media process died while decoding %s (%r).", name, error)
                raise MediaError(
                    f"{name} ended the process that decoded it. It may be damaged or require more memory than allowed. "
                    "If it plays elsewhere, send it again or convert it: ffmpeg -i FILE out.mp4",
                    is_temporary=True,
                ) from error
            finally:
                self._release(worker, is_usable)
        return replies

    async def warm(self) -> None:
        """Start a process in advance."""
        self._idle.append(await self._start())

    async def close(self) -> None:
        """End all processes."""
        for worker in [*self._all, *self._dying]:
            worker.kill()
            await worker.process.wait()
        self._all, self._dying, self._idle = set(), set(), []

    def _idle_worker(self) -> _Worker | None:
        while self._idle:
            worker = self._idle.pop()
            if worker.process.returncode is None:
                return worker
            self._release(worker, is_usable=False)
        return None

    async def _start(self) -> _Worker:
        process = await asyncio.create_subprocess_exec(*COMMAND, stdin=PIPE, stdout=PIPE, env=_environment(), cwd="/")
        worker = _Worker(process, self._task)
        self._all.add(worker)
        return worker

    def _release(self, worker: _Worker, is_usable: bool) -> None:
        if is_usable and worker.num_uses < NUM_USES:
            self._idle.append(worker)
            return
        worker.kill()
        self._all.discard(worker)
        self._dying = {worker, *(dying for dying in self._dying if dying.process.returncode is None)}
        if not is_usable:
            self._on_death()


class _Worker:
    """One process and its pipes."""

    def __init__(self, process: Process, task: Fields) -> None:
        self.process, self._task = process, task
        self.num_uses, self._has_begun = 0, False

    async def begin(self) -> None:
        """Send the task to a new process and wait until it is ready."""
        if not self._has_begun:
            await self._send(self._task)
            await self._header()
            self._has_begun = True

    async def ask(self, fields: Fields, data: bytes, num_replies: int) -> list[tuple[Fields, list[bytes]]]:
        """Send a request and return the header of each reply and the bytes of its arrays. An error is the last one."""
        self.num_uses += 1
        await self._send(fields, data)
        replies: list[tuple[Fields, list[bytes]]] = []
        while len(replies) < num_replies:
            reply, stdout = await self._header(), self.process.stdout
            if "error" in reply:
                return [*replies, (reply, [])]
            assert stdout is not None
            replies.append((reply, [await stdout.readexactly(size) for size in array_sizes(reply)]))
        return replies

    async def _send(self, fields: Fields, data: bytes = b"") -> None:
        stdin = self.process.stdin
        assert stdin is not None
        stdin.write(pack(fields, data))
        await stdin.drain()

    async def _header(self) -> Fields:
        stdout = self.process.stdout
        assert stdout is not None
        length = header_length(await stdout.readexactly(LENGTH.size))
        return parse_header(await stdout.readexactly(length))

    def kill(self) -> None:
        if self.process.returncode is None:
            self.process.kill()


async def _begin(worker: _Worker, name: str) -> None:
    try:
        await asyncio.wait_for(worker.begin(), START_SECONDS)
    except asyncio.TimeoutError as error:
        raise MediaError(
            f"{name} was not read: the decoding process took longer than {START_SECONDS:g} s to start, because the "
            "machine is too busy. Try again later.",
            is_temporary=True,
        ) from error


def _unpacked(reply: Fields, blobs: list[bytes], name: str) -> ReadMedium:
    _raise_if_error(reply, name)
    try:
        return unpack_medium(reply, blobs)
    except WireError as error:
        raise MediaError(f"{name} could not be decoded. Convert it: ffmpeg -i FILE out.mp4") from error


def _raise_if_error(reply: Fields, name: str) -> None:
    if "error" not in reply:
        return
    if reply.get("kind") == "media":
        raise MediaError(reply["error"])
    raise MediaError(f"{name} cannot be decoded: {reply['error']}. Use a smaller file, or convert it.")


def _environment() -> dict[str, str]:
    """Return an environment with this package, one thread, and no keys, proxies or home folder."""
    package_dir = str(Path(video_llama.__file__).resolve().parent.parent)
    path: dict[str, Any] = {"PATH": os.environ.get("PATH", os.defpath), "PYTHONPATH": package_dir}
    return {**path, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
