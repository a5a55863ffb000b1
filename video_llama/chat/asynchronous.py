"""``Chat`` for programs that run on asyncio: the same conversation, its work done in a thread of its own."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, TypeVar

from video_llama.chat.engine import EncodedMedium, GivenMedium
from video_llama.chat.record import Answer
from video_llama.chat.session import Chat
from video_llama.processors.media_file import MediaKind

Result = TypeVar("Result")


class AsyncChat:
    """A conversation that never blocks the event loop. ``Assistant.achat`` makes one.

    What is asked of it is done in the order in which it was asked. Different chats run side by side.
    """

    def __init__(self, chat: Chat) -> None:
        self._chat = chat
        self._worker = ThreadPoolExecutor(max_workers=1, thread_name_prefix="video-llama-chat")

    @property
    def answers(self) -> list[Answer]:
        """Every answer so far, with its record."""
        return self._chat.answers

    async def add(self, media: GivenMedium, kind: MediaKind | None = None, **options: Any) -> EncodedMedium:
        """Show or play a medium before the next question, as ``Chat.add``."""
        return await self._run(partial(self._chat.add, media, kind, **options))

    async def ask(self, question: str, **decoding: Any) -> Answer:
        """The whole answer, as ``Chat.ask``. If the task is cancelled the answer ends where it then is."""
        pieces = self.stream(question, **decoding)
        try:
            async for _ in pieces:
                pass
        finally:
            await pieces.aclose()
        return self.answers[-1]

    async def stream(self, question: str, **decoding: Any) -> AsyncGenerator[str, None]:
        """The answer piece by piece, as ``Chat.stream``; leaving the loop early stops the answer."""
        stream = await self._run(partial(self._chat.stream, question, **decoding))
        try:
            while (piece := await self._run(partial(next, stream, None))) is not None:
                yield piece
        finally:
            # In the same thread, hence after a token that is still being made.
            self._worker.submit(stream.close)

    async def reset(self) -> None:
        """Forget what was said, not what was shown."""
        await self._run(self._chat.reset)

    async def _run(self, work: Callable[[], Result]) -> Result:
        return await asyncio.get_running_loop().run_in_executor(self._worker, work)
