"""``Chat`` for asyncio: the same conversation, running in a worker thread."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TypeVar

from typing_extensions import Unpack

from video_llama.chat.decoding import Decoding, DecodingFields
from video_llama.chat.engine import EncodedMedium, GivenMedium
from video_llama.chat.record import Answer
from video_llama.chat.session import Chat
from video_llama.processors.media_file import MediaKind
from video_llama.processors.medium import MediaFields

Result = TypeVar("Result")


class AsyncChat:
    """A conversation that does not block the event loop. Create it with ``Assistant.achat``.

    Calls run in the order in which they were made. Different chats run concurrently.
    """

    def __init__(self, chat: Chat) -> None:
        self._chat = chat
        self._worker = ThreadPoolExecutor(max_workers=1, thread_name_prefix="video-llama-chat")

    @property
    def answers(self) -> list[Answer]:
        """All answers, with their records."""
        return self._chat.answers

    async def add(
        self, media: GivenMedium, kind: MediaKind | None = None, **options: Unpack[MediaFields]
    ) -> EncodedMedium:
        """Add a medium before the next question. See ``Chat.add``."""
        return await self._run(partial(self._chat.add, media, kind, **options))

    async def ask(self, question: str, decoding: Decoding | None = None, **fields: Unpack[DecodingFields]) -> Answer:
        """Return the whole answer. See ``Chat.ask``. Cancelling the task ends the answer at that point."""
        pieces = self.stream(question, decoding, **fields)
        try:
            async for _ in pieces:
                pass
        finally:
            await pieces.aclose()
        return self.answers[-1]

    async def stream(
        self, question: str, decoding: Decoding | None = None, **fields: Unpack[DecodingFields]
    ) -> AsyncGenerator[str, None]:
        """Yield the answer piece by piece. See ``Chat.stream``. Leaving the loop early stops the answer."""
        stream = await self._run(partial(self._chat.stream, question, decoding, **fields))
        try:
            while (piece := await self._run(partial(next, stream, None))) is not None:
                yield piece
        finally:
            # Runs in the worker thread, after a token that is still being computed.
            self._worker.submit(stream.close)

    async def reset(self) -> None:
        """Clear the questions and answers; the media stay."""
        await self._run(self._chat.reset)

    async def _run(self, work: Callable[[], Result]) -> Result:
        return await asyncio.get_running_loop().run_in_executor(self._worker, work)
