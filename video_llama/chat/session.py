"""One conversation: media and questions in, streamed answers out, with what was seen and said so far."""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator
from typing import Any

from video_llama.chat.cache import PromptCache
from video_llama.chat.decoding import Decoding, TokenChooser, beam_ids, token_steps
from video_llama.chat.engine import Effort, EncodedMedium, Engine, GivenMedium, PreparedTurn, Writer
from video_llama.chat.messages import message_for
from video_llama.chat.record import Answer
from video_llama.conversation import Conversation, has_stop
from video_llama.processors.media_file import MediaKind
from video_llama.processors.medium import MediaOptions


class AnswerStream(Iterator[str]):
    """The pieces of an answer's text as they are made; ``answer`` is there when they have ended.

    ``close`` stops the answer. What had come of it by then stays in the conversation, and is ``answer``.
    """

    def __init__(self) -> None:
        self.answer: Answer | None = None
        self._pieces: Generator[str, None, None] | None = None

    def __next__(self) -> str:
        if self._pieces is None:
            raise StopIteration
        return next(self._pieces)

    def close(self) -> None:
        """Stop here. A stream that has not begun leaves no trace, one that has ended stays as it is."""
        if self._pieces is not None:
            self._pieces.close()


class Chat:
    """A conversation about any number of media, in any order, or about none. ``Assistant.chat`` makes one.

    Media are encoded when they are added, once; what the model has read is kept, so that a question only costs what
    is new in it. Turns that the context has no room for are left out of the prompt, whole, the oldest first.
    """

    def __init__(self, engine: Engine, options: MediaOptions, system: str | None = None) -> None:
        self._engine, self._options, self._system = engine, options, system
        self._conversation = Conversation(engine.template, system)
        self._media: list[EncodedMedium] = []
        self._num_recorded_media = 0
        self._cache: PromptCache | None = None
        self._open: AnswerStream | None = None
        self.answers: list[Answer] = []
        """Every answer so far, with its record."""

    def add(self, media: GivenMedium, kind: MediaKind | None = None, **options: Any) -> EncodedMedium:
        """Show or play a medium before the next question: a video, image, sound, or folder (or list) of frames.

        ``kind`` None finds out what it is; ``options`` (``frames``, ``no_audio``, ``require_audio``) replace those
        that the chat was made with. Raises MediaError and ValueError, and then nothing is added.
        """
        self._close_stream()
        medium = self._engine.encode(media, MediaOptions(**{**vars(self._options), **options}), kind)
        self._conversation.add_media(message_for(medium.read))
        self._media.append(medium)
        return medium

    def ask(self, question: str, **decoding: Any) -> Answer:
        """The whole answer. ``decoding`` are the fields of ``Decoding``; greedy by default."""
        stream = self.stream(question, **decoding)
        for _ in stream:
            pass
        assert stream.answer is not None, "a stream that ended has one"
        return stream.answer

    def stream(self, question: str, **decoding: Any) -> AnswerStream:
        """The answer piece by piece. A stream that is still open is closed first.

        Raises PromptError and ValueError before the first piece; then nothing was asked.
        """
        self._close_stream()
        turn = self._engine.turn(self._conversation, self._media, question, Decoding(**decoding))
        stream = AnswerStream()
        stream._pieces = self._write(turn, stream)
        self._open = stream
        return stream

    def reset(self) -> None:
        """Forget what was said, not what was shown."""
        self._close_stream()
        self._conversation = Conversation(self._engine.template, self._system)
        for medium in self._media:
            self._conversation.add_media(message_for(medium.read))
        self._cache = None
        self.answers = []

    def _close_stream(self) -> None:
        if self._open is not None:
            self._open.close()
            self._open = None

    def _write(self, turn: PreparedTurn, stream: AnswerStream) -> Generator[str, None, None]:
        writer, effort = self._engine.writer(turn), Effort()
        try:
            for token in self._tokens(turn, effort):
                piece = writer.push(token)
                if piece:
                    yield piece
                if writer.stop_reason:
                    break
        except (GeneratorExit, KeyboardInterrupt):
            if writer.text:
                self._finish(turn, stream, writer, effort)
            raise
        self._finish(turn, stream, writer, effort)

    def _finish(self, turn: PreparedTurn, stream: AnswerStream, writer: Writer, effort: Effort) -> None:
        new_media = self._media[self._num_recorded_media :]
        stream.answer = Answer(writer.text, self._engine.record(turn, writer, effort, new_media))
        turn.said.answer(writer.text)
        self._conversation = turn.said
        self._num_recorded_media = len(self._media)
        self.answers.append(stream.answer)

    def _tokens(self, turn: PreparedTurn, effort: Effort) -> Iterator[int]:
        """The answer's ids, from the model; they run on until the caller has enough of them."""
        if turn.decoding.num_beams > 1:
            start = time.perf_counter()
            [ids] = search_beams(self._engine, [turn])
            effort.generate = time.perf_counter() - start
            yield from ids
            return
        # A step that is broken off in the middle leaves keys without their values: then the cache is not kept.
        cache, self._cache = self._cache or PromptCache(), None
        start = time.perf_counter()
        effort.reused = cache.keep_common(turn.prompt.input_ids)
        steps = self._steps(turn, cache, effort.reused)
        token = next(steps)
        effort.prefill = time.perf_counter() - start
        cache.ids = list(turn.prompt.input_ids)
        while True:
            self._cache = cache
            yield token
            self._cache = None
            start = time.perf_counter()
            following = next(steps)
            effort.generate += time.perf_counter() - start
            cache.ids.append(token)
            token = following

    def _steps(self, turn: PreparedTurn, cache: PromptCache, num_reused: int) -> Iterator[int]:
        engine = self._engine
        embeds_1LD, mask_1L = engine.embed([turn])
        choose = TokenChooser(turn.decoding, engine.tokenizer.bos_id, 1, engine.model.device)
        for [token] in token_steps(engine.model, embeds_1LD[:, num_reused:], mask_1L, cache.key_values, choose):
            yield token


def search_beams(engine: Engine, turns: list[PreparedTurn]) -> list[list[int]]:
    """The ids of each turn's best answer, found with the beams that the first turn's decoding asks for."""
    embeds_BLD, mask_BL = engine.embed(turns)
    return beam_ids(
        engine.model,
        embeds_BLD,
        mask_BL,
        turns[0].decoding,
        eos_id=engine.tokenizer.eos_id,
        pad_id=engine.tokenizer.pad_id,
        is_stopped=lambda ids: has_stop(engine.tokenizer, ids, engine.template),
    )
