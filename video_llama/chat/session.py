"""A conversation: media and questions in, streamed answers out."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import replace

from typing_extensions import Unpack

from video_llama.chat.cache import PromptCache
from video_llama.chat.decoding import Decoding, DecodingFields, TokenChooser, beam_ids, token_steps
from video_llama.chat.engine import (
    Effort,
    EncodedMedium,
    Engine,
    GivenMedium,
    PreparedTurn,
    Writer,
    block_activity,
    warnings_of,
)
from video_llama.chat.messages import message_for
from video_llama.chat.record import Answer
from video_llama.conversation import Conversation, has_stop
from video_llama.processors.media_file import MediaKind
from video_llama.processors.medium import MediaFields, MediaOptions
from video_llama.processors.subtitles import Subtitles


class AnswerStream(Iterator[str]):
    """Iterator over the pieces of an answer; ``answer`` is set at the end.

    ``close`` stops the answer. The text generated so far stays in the conversation and is in ``answer``.
    """

    def __init__(self) -> None:
        self.answer: Answer | None = None
        self._pieces: Generator[str, None, None] | None = None

    def __next__(self) -> str:
        if self._pieces is None:
            raise StopIteration
        return next(self._pieces)

    def close(self) -> None:
        """Stop the answer. Has no effect on a stream that has ended; one that has not started leaves no trace."""
        if self._pieces is not None:
            self._pieces.close()


class Chat:
    """A conversation about any number of media. Create it with ``Assistant.chat``.

    Each medium is encoded once, when it is added. Keys and values are cached, so a question costs only its new tokens.
    If the context is too short, the oldest turns are removed from the prompt.
    """

    def __init__(
        self, engine: Engine, options: MediaOptions, system: str | None = None, *, raw_prompt: bool = False
    ) -> None:
        self._engine, self._options, self._system, self._raw_prompt = engine, options, system, raw_prompt
        self._conversation = self._new_conversation()
        self._media: list[EncodedMedium] = []
        self._num_recorded_media = 0
        self._cache: PromptCache | None = None
        self._open: AnswerStream | None = None
        self.answers: list[Answer] = []
        """All answers, with their records."""

    @property
    def warnings(self) -> list[str]:
        """The warnings about the media: some are unlike those that the model was trained on."""
        return warnings_of(self._media)

    def add(self, media: GivenMedium, kind: MediaKind | None = None, **options: Unpack[MediaFields]) -> EncodedMedium:
        """Add a medium before the next question: a video, image, sound, or a folder or list of frames.

        ``kind`` None determines it from the content. ``options`` (``frames``, ``no_audio``, ``require_audio``) replace
        those of the chat. Raises MediaError and ValueError; then nothing is added.
        """
        self._close_stream()
        medium = self._engine.encode(media, replace(self._options, **options), kind)
        self._conversation.add_media(message_for(medium.read))
        self._media.append(medium)
        return medium

    def ask(
        self,
        question: str,
        decoding: Decoding | None = None,
        *,
        subtitles: Subtitles | None = None,
        **fields: Unpack[DecodingFields],
    ) -> Answer:
        """Return the whole answer. Raises as :func:`stream`.

        Args:
            decoding: decoding settings (default: greedy).
            subtitles: text of a video with its times, which is put before the question.
            fields: single settings, which replace those of ``decoding``, such as ``temperature=0.7``.
        """
        stream = self.stream(question, decoding, subtitles=subtitles, **fields)
        for _ in stream:
            pass
        assert stream.answer is not None, "set when the stream ends"
        return stream.answer

    def stream(
        self,
        question: str,
        decoding: Decoding | None = None,
        *,
        subtitles: Subtitles | None = None,
        **fields: Unpack[DecodingFields],
    ) -> AnswerStream:
        """Return the answer piece by piece, with the arguments of :func:`ask`. An open stream is closed first.

        Raises PromptError and ValueError before the first piece; then the conversation is unchanged.
        """
        self._close_stream()
        settings = replace(decoding or Decoding(), **fields)
        turn = self._engine.turn(self._conversation, self._media, question, settings, subtitles)
        stream = AnswerStream()
        stream._pieces = self._write(turn, stream)
        self._open = stream
        return stream

    def reset(self) -> None:
        """Clear the questions and answers; the media stay."""
        self._close_stream()
        self._conversation = self._new_conversation()
        for medium in self._media:
            self._conversation.add_media(message_for(medium.read))
        self._cache = None
        self.answers = []

    def _new_conversation(self) -> Conversation:
        return self._engine.conversation(self._system, raw_prompt=self._raw_prompt)

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
        """Yield the token ids of the answer, until the caller stops."""
        if turn.decoding.num_beams > 1:
            start = time.perf_counter()
            [ids] = search_beams(self._engine, [turn])
            effort.generate = time.perf_counter() - start
            yield from ids
            return
        # An interrupted step leaves keys without values, so the cache is kept only between steps.
        start = time.perf_counter()
        cache, self._cache = self._cache or self._known_beginning(turn), None
        effort.reused = cache.keep_common(turn.prompt.input_ids)
        steps = self._steps(turn, cache, effort.reused)
        with block_activity("reading the prompt", self._engine.model.model.language_model.layers):
            token = next(steps)
        effort.prefill = time.perf_counter() - start
        cache.ids = list(turn.prompt.input_ids)
        self._engine.prefixes.keep(turn.media, turn.prompt, cache.pairs())
        while True:
            self._cache = cache
            yield token
            self._cache = None
            start = time.perf_counter()
            following = next(steps)
            effort.generate += time.perf_counter() - start
            cache.ids.append(token)
            token = following

    def _known_beginning(self, turn: PreparedTurn) -> PromptCache:
        """Return the cache of a prompt's beginning that another conversation has computed, or an empty one."""
        length, key_values = self._engine.prefixes.find(turn.media, turn.prompt.input_ids)
        return PromptCache(turn.prompt.input_ids[:length], key_values)

    def _steps(self, turn: PreparedTurn, cache: PromptCache, num_reused: int) -> Iterator[int]:
        engine = self._engine
        embeds_1LD, mask_1L = engine.embed([turn])
        choose = TokenChooser(turn.decoding, engine.tokenizer.bos_id, 1, engine.model.device)
        for [token] in token_steps(engine.model, embeds_1LD[:, num_reused:], mask_1L, cache.key_values, choose):
            yield token


def search_beams(
    engine: Engine, turns: list[PreparedTurn], after_step: Callable[[], None] | None = None
) -> list[list[int]]:
    """Return the token ids of the best beam of each turn, with the decoding settings of the first turn.

    ``after_step`` is called after each decoding step. An exception that it raises ends the search.
    """
    length = 0

    def is_stopped(ids: Sequence[int]) -> bool:  # called for every beam; all beams have the same length
        nonlocal length
        if len(ids) > length:
            length = len(ids)
            if after_step is not None:
                after_step()
        return has_stop(engine.tokenizer, ids, engine.template)

    embeds_BLD, mask_BL = engine.embed(turns)
    return beam_ids(
        engine.model,
        embeds_BLD,
        mask_BL,
        turns[0].decoding,
        eos_id=engine.tokenizer.eos_id,
        pad_id=engine.tokenizer.pad_id,
        is_stopped=is_stopped,
    )
