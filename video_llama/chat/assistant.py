"""A loaded model that answers questions. Create one with ``video_llama.load`` (chat/loading.py)."""

from __future__ import annotations

import time
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import cast

import numpy as np
from typing_extensions import Unpack

from video_llama.chat.asynchronous import AsyncChat
from video_llama.chat.attention import QueryAttention
from video_llama.chat.decoding import Decoding, DecodingFields, TokenChooser, token_steps
from video_llama.chat.engine import Effort, EncodedMedium, Engine, GivenMedium, PreparedTurn
from video_llama.chat.likelihood import AnswerScore, answer_scores
from video_llama.chat.messages import message_for
from video_llama.chat.record import Answer
from video_llama.chat.session import Chat, search_beams
from video_llama.chat.shared_prefill import shared_prefill
from video_llama.chat.timeline import Timeline
from video_llama.chat.window_answers import WindowAnswers, with_summary
from video_llama.checkpoints.folder import ModelFolder
from video_llama.errors import PromptError
from video_llama.processors.media_file import MediaSource
from video_llama.processors.medium import MediaFields, MediaOptions, ReadMedium
from video_llama.processors.sampling import FrameSampling
from video_llama.processors.scene_cuts import ScenePlan
from video_llama.processors.subtitles import Subtitles
from video_llama.processors.windows import WindowPlan

RequestedMedia = GivenMedium | Sequence[EncodedMedium] | None
"""The media of a request: one medium, several encoded ones, or none."""


class Assistant:
    """A loaded model. Any number of chats can share it; it keeps no state of them.

    Raises CheckpointError for a model with untrained parts.
    """

    def __init__(self, folder: ModelFolder) -> None:
        self._engine = Engine(folder)
        self.name, self.notice = folder.manifest.name, folder.manifest.notice
        self.settings, self.config = folder.settings, self._engine.config

    @property
    def engine(self) -> Engine:
        """The engine of the chats, for programs that decode many conversations together, such as the server."""
        return self._engine

    def chat(
        self,
        *media: GivenMedium,
        system: str | None = None,
        frames: FrameSampling | None = None,
        no_audio: bool = False,
        require_audio: bool = False,
        raw_prompt: bool = False,
    ) -> Chat:
        """Start a conversation about ``media``, in order; without media it is text only.

        Args:
            media: paths, bytes or binary file objects. A list of paths is one video, given as its frames.
            system: replaces the system prompt of the template.
            frames: which frames of videos are sampled (default: the model's number of frames, uniformly). It is ignored
                for images; of sounds it selects the segment (``start``, ``end``).
            no_audio: ignore the sound of videos.
            require_audio: treat a medium without sound as an error.
            raw_prompt: put texts into the prompt as they are, as in the reference: a typed ``</s>`` is the end token.
                By default such sequences get a space, and the record contains them.

        Raises:
            MediaError: a medium that cannot be used.
            ValueError: invalid arguments.
        """
        chat = Chat(self._engine, MediaOptions(frames, no_audio, require_audio), system, raw_prompt=raw_prompt)
        for medium in media:
            chat.add(medium)
        return chat

    async def achat(
        self, *media: GivenMedium, system: str | None = None, raw_prompt: bool = False, **options: Unpack[MediaFields]
    ) -> AsyncChat:
        """Start a conversation for asyncio. Takes the arguments of :func:`chat` and raises the same errors."""
        chat = AsyncChat(self.chat(system=system, raw_prompt=raw_prompt, **options))
        for medium in media:
            await chat.add(medium)
        return chat

    def read(self, media: MediaSource, **options: Unpack[MediaFields]) -> ReadMedium:
        """Read the frames and sound clips of a medium, without encoding them. ``options`` are those of :func:`chat`."""
        return self._engine.read(media, MediaOptions(**options))

    def encode(self, media: MediaSource | ReadMedium, **options: Unpack[MediaFields]) -> EncodedMedium:
        """Read and encode a medium once. Chats and requests accept the result in place of the file."""
        return self._engine.encode(media, MediaOptions(**options))

    def mel_clips(self, read: ReadMedium) -> np.ndarray | None:
        """Return the normalized log-mel clips [S, 1, bins, steps] of a medium, or None if it has no sound."""
        return self._engine.mel_clips(read)

    def attention(self, read: ReadMedium) -> QueryAttention:
        """Return the attention of the video and audio queries over a medium; see ``query_attention``.

        Encodes the medium again; no other thread may use the model during the call.
        """
        return self._engine.attention(read)

    def ask_batch(
        self,
        requests: Sequence[tuple[RequestedMedia, str]],
        *,
        batch_size: int = 8,
        frames: FrameSampling | None = None,
        no_audio: bool = False,
        require_audio: bool = False,
        **decoding: Unpack[DecodingFields],
    ) -> list[Answer]:
        """Answer (medium, question) pairs, each as its own conversation, ``batch_size`` at a time.

        Several media of a question are given as a list of encoded media. Questions of a batch about one medium (the
        same path or object) share its encoding and the beginning of the prompt, so put them next to each other.

        Greedy answers equal those of single requests (in float32; in lower precision rounding can change a token);
        sampled answers depend on the batch. Times in the records are for the whole batch. Raises the errors of
        :func:`chat` and ``Chat.ask`` for the first invalid request.
        """
        if batch_size < 1:
            raise ValueError(f"batch_size is {batch_size}. Give 1 or more.")
        options, settings = MediaOptions(frames, no_audio, require_audio), Decoding(**decoding)
        settings = settings.resolved(self._engine.context_length)
        answers: list[Answer] = []
        waiting = iter(requests)
        known: dict[Hashable, EncodedMedium] = {}  # of the last batch
        while batch := list(islice(waiting, batch_size)):
            known = {key: known[key] for key in map(_key, (media for media, _ in batch)) if key in known}
            turns: list[PreparedTurn] = []
            for media, question in batch:
                key = _key(media)
                turns.append(self.prepare(known.get(key, media), question, options, settings))
                if key is not None and turns[-1].media:
                    known[key] = turns[-1].media[0]
            answers += self.answer(turns)
        return answers

    def ask_windows(
        self,
        media: MediaSource,
        question: str,
        *,
        plan: WindowPlan | ScenePlan = WindowPlan(),  # noqa: B008  (frozen)
        batch_size: int = 8,
        subtitles: Subtitles | None = None,
        frames: FrameSampling | None = None,
        no_audio: bool = False,
        require_audio: bool = False,
        **decoding: Unpack[DecodingFields],
    ) -> WindowAnswers:
        """Return an iterator over the answers about the windows of a long medium, in their order.

        Each window is asked as its own conversation. Its frames are sampled from the window, and their times in the
        prompt count from the start of the medium, as with ``start`` and ``end``. The medium is opened once and is
        decoded by seeking; ``batch_size`` windows are answered together, and no others are in memory.

        Args:
            media: a video, a sound, or a folder or list of frames.
            plan: how the medium is divided: windows of a fixed length, or the scenes between the cuts of a video.
            subtitles: text with its times; each window gets the cues that are shown during it.
            frames: frames of each window (default: the model's number of frames); ``start`` and ``end`` limit the part
                of the medium that is divided.

        Raises:
            MediaError: a medium that cannot be used, and an image.
            ValueError: invalid arguments.
        """
        if not question.strip():
            raise PromptError("The question is empty. Enter a question.")
        reader = self._engine.open_windows(media, MediaOptions(frames, no_audio, require_audio))
        try:
            settings = Decoding(**decoding)
            return WindowAnswers(self._engine, self.answer, reader, plan, question, settings, batch_size, subtitles)
        except BaseException:
            reader.close()
            raise

    def timeline(
        self,
        media: MediaSource,
        question: str,
        *,
        window: float = 30.0,
        stride: float | None = None,
        scenes: ScenePlan | None = None,
        summary: bool = False,
        batch_size: int = 8,
        subtitles: Subtitles | None = None,
        frames: FrameSampling | None = None,
        no_audio: bool = False,
        require_audio: bool = False,
        **decoding: Unpack[DecodingFields],
    ) -> Timeline:
        """Return the answers about the windows of a long medium, merged into a timeline.

        Args:
            window: length of the windows, in seconds.
            stride: seconds from the start of a window to that of the next one (default: ``window``). A longer stride
                leaves gaps.
            scenes: the windows are the scenes between cuts, in place of ``window`` and ``stride``. A video file only.
            summary: add one summary, which the decoder writes from the texts of the entries. Raises ContextLengthError
                if they do not fit into the context.

        The other arguments and the errors are those of :func:`ask_windows`.
        """
        answers = self.ask_windows(
            media,
            question,
            plan=scenes or WindowPlan(window, stride),
            batch_size=batch_size,
            subtitles=subtitles,
            frames=frames,
            no_audio=no_audio,
            require_audio=require_audio,
            **decoding,
        )
        timeline = answers.timeline()
        return self.summarized(timeline, **decoding) if summary else timeline

    def summarized(self, timeline: Timeline, **decoding: Unpack[DecodingFields]) -> Timeline:
        """Return a timeline with a summary. Raises ContextLengthError if its texts do not fit into the context."""
        return with_summary(self._engine, self.answer, timeline, Decoding(**decoding))

    def score(
        self,
        media: RequestedMedia,
        question: str,
        answers: Sequence[str],
        **options: Unpack[MediaFields],
    ) -> list[AnswerScore]:
        """Return the log-probabilities of given answers to a question, such as the choices of a test.

        The medium and the prompt are computed once for all answers. ``options`` are those of :func:`chat`. Raises
        PromptError for an empty answer, ContextLengthError for one that does not fit, and the errors of :func:`chat`.
        """
        turn = self.prepare(media, question, MediaOptions(**options), Decoding(max_new_tokens=1))
        return answer_scores(self._engine, turn, answers)

    def prepare(self, media: RequestedMedia, question: str, options: MediaOptions, decoding: Decoding) -> PreparedTurn:
        """Prepare a question that begins a conversation, for :func:`answer`. Raises the errors of :func:`chat`."""
        conversation = self._engine.conversation()
        encoded = self._encoded(media, options)
        for medium in encoded:
            conversation.add_media(message_for(medium.read))
        return self._engine.turn(conversation, encoded, question, decoding)

    def answer(self, turns: list[PreparedTurn]) -> list[Answer]:
        """Answer prepared questions in one batch, with the decoding settings of the first."""
        engine, effort = self._engine, Effort()
        writers = [engine.writer(turn) for turn in turns]
        start = time.perf_counter()
        columns, num_reused = _columns(engine, turns)
        for tokens in columns:
            for writer, token in zip(writers, tokens, strict=True):
                if writer.stop_reason is None:
                    writer.push(token)
            if effort.prefill == 0.0:
                effort.prefill = time.perf_counter() - start
            if all(writer.stop_reason for writer in writers):
                break
        effort.generate = time.perf_counter() - start - effort.prefill
        return [
            Answer(writer.text, engine.record(turn, writer, replace(effort, reused=count), turn.media))
            for turn, writer, count in zip(turns, writers, num_reused, strict=True)
        ]

    def _encoded(self, media: RequestedMedia, options: MediaOptions) -> list[EncodedMedium]:
        if media is None:
            return []
        if isinstance(media, (list, tuple)) and all(isinstance(each, EncodedMedium) for each in media):
            return list(media)
        return [self._engine.encode(cast(GivenMedium, media), options)]


def _key(media: RequestedMedia) -> Hashable:
    """Return what identifies a source within a batch: a path by its text, anything else by its identity."""
    if media is None or isinstance(media, EncodedMedium):
        return None
    return str(media) if isinstance(media, str | Path) else id(media)


def _columns(engine: Engine, turns: list[PreparedTurn]) -> tuple[Iterator[Sequence[int]], list[int]]:
    """Return an endless iterator over the next token ids of all answers, and each prompt's number of reused tokens."""
    if turns[0].decoding.num_beams > 1:
        return zip(*search_beams(engine, turns), strict=True), [0] * len(turns)
    prompts = shared_prefill(engine, turns)
    choose = TokenChooser(turns[0].decoding, engine.tokenizer.bos_id, len(turns), engine.model.device)
    steps = token_steps(engine.model, prompts.embeds_BSD, prompts.mask_BL, prompts.cache, choose)
    return steps, prompts.num_reused
