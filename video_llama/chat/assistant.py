"""A model that is ready to answer. The way to get one is ``video_llama.load`` (chat/loading.py)."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np
from transformers import DynamicCache

from video_llama.chat.asynchronous import AsyncChat
from video_llama.chat.attention import QueryAttention
from video_llama.chat.decoding import Decoding, TokenChooser, token_steps
from video_llama.chat.engine import Effort, EncodedMedium, Engine, GivenMedium, PreparedTurn
from video_llama.chat.messages import message_for
from video_llama.chat.record import Answer
from video_llama.chat.session import Chat, search_beams
from video_llama.checkpoints.folder import ModelFolder
from video_llama.conversation import Conversation
from video_llama.processors.media_file import MediaSource
from video_llama.processors.medium import MediaOptions, ReadMedium
from video_llama.processors.sampling import FrameSampling

if TYPE_CHECKING:
    pass


class Assistant:
    """A loaded model. Any number of chats may share it; it keeps nothing of them.

    Raises CheckpointError for a folder with untrained parts.
    """

    def __init__(self, folder: ModelFolder) -> None:
        self._engine = Engine(folder)
        self.name, self.notice = folder.manifest.name, folder.manifest.notice
        self.settings, self.config = folder.settings, self._engine.config

    @property
    def engine(self) -> Engine:
        """What its chats run on: for those who decode many conversations together, as the server does."""
        return self._engine

    def chat(
        self,
        *media: GivenMedium,
        system: str | None = None,
        frames: FrameSampling | None = None,
        no_audio: bool = False,
        require_audio: bool = False,
    ) -> Chat:
        """Start a conversation about ``media``, in their order; none is a conversation in words alone.

        A list is one video given as its frames. ``frames`` None takes the model's own number, uniformly; it is for the
        videos among the media (an image has nothing to choose from, a sound takes ``start`` and ``end`` alone);
        ``no_audio`` leaves sound out, ``require_audio`` makes a medium without sound an error; ``system`` replaces the
        template's system text. Raises MediaError, and ValueError for arguments that cannot be.
        """
        chat = Chat(self._engine, MediaOptions(frames, no_audio, require_audio), system)
        for medium in media:
            chat.add(medium)
        return chat

    async def achat(self, *media: GivenMedium, **options: Any) -> AsyncChat:
        """The same for asyncio: a conversation that never blocks the event loop. Takes and raises what chat does."""
        chat = AsyncChat(self.chat(**options))
        for medium in media:
            await chat.add(medium)
        return chat

    def read(
        self,
        media: MediaSource,
        *,
        frames: FrameSampling | None = None,
        no_audio: bool = False,
        require_audio: bool = False,
    ) -> ReadMedium:
        """The frames and the sound that this model would take from a medium, not yet encoded."""
        return self._engine.read(media, MediaOptions(frames, no_audio, require_audio))

    def encode(
        self,
        media: MediaSource | ReadMedium,
        *,
        frames: FrameSampling | None = None,
        no_audio: bool = False,
        require_audio: bool = False,
    ) -> EncodedMedium:
        """Read and encode a medium once, to be given to chats and requests in the place of its source."""
        return self._engine.encode(media, MediaOptions(frames, no_audio, require_audio))

    def mel_clips(self, read: ReadMedium) -> np.ndarray | None:
        """Return the normalized log-mel clips [S, 1, bins, steps] of a medium, or None if it has no sound."""
        return self._engine.mel_clips(read)

    def attention(self, read: ReadMedium) -> QueryAttention:
        """Where the queries look in a medium, whatever is asked about it. Encodes it once more, and alone: no other
        thread may use the model meanwhile."""
        return self._engine.attention(read)

    def ask_batch(
        self,
        requests: Sequence[tuple[GivenMedium | None, str]],
        *,
        batch_size: int = 8,
        frames: FrameSampling | None = None,
        no_audio: bool = False,
        require_audio: bool = False,
        **decoding: Any,
    ) -> list[Answer]:
        """Answer (media, question) pairs, each a conversation of its own, ``batch_size`` at a time.

        Greedy answers are those of one by one, token by token (in float32, where rounding decides no token); drawn
        ones depend on the batch. The seconds in the records are those of the batch. Raises as ``chat`` and
        ``Chat.ask`` do, for the first request that cannot be.
        """
        if batch_size < 1:
            raise ValueError(f"batch_size is {batch_size}. Give 1 or more.")
        options, settings = MediaOptions(frames, no_audio, require_audio), Decoding(**decoding)
        settings = settings.resolved(self._engine.context_length)
        answers: list[Answer] = []
        waiting = iter(requests)
        while batch := list(islice(waiting, batch_size)):
            answers += self._answer([self._turn(media, question, options, settings) for media, question in batch])
        return answers

    def _turn(
        self, media: GivenMedium | None, question: str, options: MediaOptions, decoding: Decoding
    ) -> PreparedTurn:
        conversation = Conversation(self._engine.template)
        encoded = [] if media is None else [self._engine.encode(media, options)]
        for medium in encoded:
            conversation.add_media(message_for(medium.read))
        return self._engine.turn(conversation, encoded, question, decoding)

    def _answer(self, turns: list[PreparedTurn]) -> list[Answer]:
        engine, effort = self._engine, Effort()
        writers = [engine.writer(turn) for turn in turns]
        start = time.perf_counter()
        for tokens in _columns(engine, turns):
            for writer, token in zip(writers, tokens, strict=True):
                if writer.stop_reason is None:
                    writer.push(token)
            if effort.prefill == 0.0:
                effort.prefill = time.perf_counter() - start
            if all(writer.stop_reason for writer in writers):
                break
        effort.generate = time.perf_counter() - start - effort.prefill
        return [
            Answer(writer.text, engine.record(turn, writer, effort, turn.media))
            for turn, writer in zip(turns, writers, strict=True)
        ]


def _columns(engine: Engine, turns: list[PreparedTurn]) -> Iterator[Sequence[int]]:
    """The next id of every answer, again and again."""
    if turns[0].decoding.num_beams > 1:
        return zip(*search_beams(engine, turns), strict=True)
    embeds_BLD, mask_BL = engine.embed(turns)
    choose = TokenChooser(turns[0].decoding, engine.tokenizer.bos_id, len(turns), engine.model.device)
    return token_steps(engine.model, embeds_BLD, mask_BL, DynamicCache(), choose)
