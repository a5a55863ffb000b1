"""Ask a question about each window of a long medium, and for one summary of the answers.

In: a ``WindowReader``. Out: ``WindowAnswer`` objects, in the order of the windows. Only the windows of one batch are in
memory.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import replace
from itertools import islice

from video_llama.chat.decoding import Decoding
from video_llama.chat.engine import Engine, PreparedTurn
from video_llama.chat.messages import message_for
from video_llama.chat.record import Answer
from video_llama.chat.timeline import Timeline, WindowAnswer
from video_llama.chat.timeline_formats import timeline_text
from video_llama.errors import ContextLengthError
from video_llama.processors.medium import ReadMedium
from video_llama.processors.scene_cuts import ScenePlan
from video_llama.processors.subtitles import Subtitles
from video_llama.processors.window_reader import WindowReader
from video_llama.processors.windows import WindowPlan

SUMMARY_INTRODUCTION = "These are answers about the parts of one video, in order, each with its time."
SUMMARY_REQUEST = "Summarize what happens in the whole video."

AnswerTurns = Callable[[list[PreparedTurn]], list[Answer]]
"""Answers prepared questions in one batch: ``Assistant.answer``."""


class WindowAnswers(Iterator[WindowAnswer]):
    """Iterator over the answers about the windows of a medium, which is closed after the last one, or by ``close``.

    Raises the errors of reading and asking at the window that they concern.
    """

    def __init__(
        self,
        engine: Engine,
        answer: AnswerTurns,
        reader: WindowReader,
        plan: WindowPlan | ScenePlan,
        question: str,
        decoding: Decoding,
        batch_size: int,
        subtitles: Subtitles | None = None,
    ) -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size is {batch_size}. Give 1 or more.")
        self.windows = reader.plan(plan)
        self._windowing = plan.as_dict()
        self.source, self.duration, self.question = reader.name, round(reader.duration, 3), question
        self._engine, self._answer, self._reader = engine, answer, reader
        self._decoding = decoding.resolved(engine.context_length)
        self._batch_size, self._subtitles = batch_size, subtitles
        self._answers = self._run()

    def __next__(self) -> WindowAnswer:
        return next(self._answers)

    def close(self) -> None:
        """Close the medium. Iteration ends."""
        self._answers.close()
        self._reader.close()

    def timeline(self, answers: Iterable[WindowAnswer] | None = None) -> Timeline:
        """Return the timeline of ``answers``, which are those of this iterator (default: answer all windows)."""
        return Timeline(
            self.source, self.duration, self.question, self._windowing, tuple(self if answers is None else answers)
        )

    def _run(self) -> Generator[WindowAnswer, None, None]:
        try:
            media = _timed(self._reader.read(self.windows))
            waiting = iter(self.windows)
            while batch := list(islice(waiting, self._batch_size)):
                read = list(islice(media, len(batch)))
                encoded = self._engine.encode_all([medium for medium, _ in read])
                turns = []
                for window, medium, (_, seconds) in zip(batch, encoded, read, strict=True):
                    conversation = self._engine.conversation()
                    conversation.add_media(message_for(medium.read))
                    medium = replace(medium, decode_seconds=medium.decode_seconds + seconds)
                    shown = self._subtitles and self._subtitles.between(window.start, window.end)
                    turns.append(self._engine.turn(conversation, [medium], self.question, self._decoding, shown))
                answers = self._answer(turns)
                yield from map(WindowAnswer, batch, answers)
        finally:
            self._reader.close()


def _timed(media: Iterator[ReadMedium]) -> Iterator[tuple[ReadMedium, float]]:
    start = time.perf_counter()
    for medium in media:
        yield medium, time.perf_counter() - start
        start = time.perf_counter()


def summary_prompt(timeline: Timeline) -> str:
    """Return the text that asks for a summary: the entries with their times, and the request."""
    return "\n".join([SUMMARY_INTRODUCTION, timeline_text(timeline.entries), SUMMARY_REQUEST])


def with_summary(engine: Engine, answer: AnswerTurns, timeline: Timeline, decoding: Decoding) -> Timeline:
    """Return the timeline with a summary, which the decoder writes from the entries alone.

    Raises ContextLengthError if the entries do not fit into the context.
    """
    [summary] = answer([summary_turn(engine, timeline, decoding)])
    return replace(timeline, summary=summary)


def summary_turn(engine: Engine, timeline: Timeline, decoding: Decoding) -> PreparedTurn:
    """Return the prompt of a summary. Raises as :func:`with_summary`."""
    try:
        return engine.turn(engine.conversation(), [], summary_prompt(timeline), decoding)
    except ContextLengthError as error:
        entries = timeline.entries
        raise ContextLengthError(
            f"The summary does not fit into the context: {len(entries)} entries of the timeline. {error} Or use longer "
            "windows, shorter answers (max_new_tokens), or summarize a part (start, end)."
        ) from error
