"""The steps between a conversation and the model: encode media, build the prompt, make the answer's record.

An engine keeps no state of conversations; any number of ``session.Chat`` objects can share one.
"""

# B prompts, L prompt length, Q tokens of a medium, D decoder width

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from video_llama.chat.attention import QueryAttention, query_attention
from video_llama.chat.decoding import Decoding
from video_llama.chat.media_prefixes import MediaPrefixes
from video_llama.chat.record import Record, describe_modalities, describe_weights, prompt_hash
from video_llama.checkpoints.folder import ModelFolder
from video_llama.conversation import (
    AUDIO_PLACE,
    VIDEO_PLACE,
    Conversation,
    EncodedPrompt,
    StreamDecoder,
    TextGuard,
    Tokenizer,
    fit_history,
    template_of,
)
from video_llama.errors import CheckpointError, PromptError
from video_llama.log import activity
from video_llama.models.encoding_steps import Steps, audio_steps, timed, video_steps
from video_llama.models.familiarity import FeatureRecorder
from video_llama.processors.audio_processor import AudioProcessor
from video_llama.processors.media_file import MediaKind, MediaSource
from video_llama.processors.medium import MediaOptions, ReadMedium, read_medium
from video_llama.processors.subtitles import Subtitles, subtitled_question
from video_llama.processors.video_processor import VideoProcessor
from video_llama.processors.window_reader import WindowReader

STOP_STRING, END_TOKEN, MAX_NEW_TOKENS, CLOSED = "stop_string", "end_token", "max_new_tokens", "closed"
"""Reasons why an answer ended."""

INTERPOLATION_FACTOR = 16
"""With interpolated positions, media may have this many times ``max_frame_pos`` frames."""
INTERPOLATED = (
    "{count} frames were read, and the model has {limit} frame positions (max_frame_pos): the positions are "
    "interpolated, which is outside of training."
)
"""Warning in the record."""


@dataclass(frozen=True)
class EncodedMedium:
    """A medium as decoder inputs: tokens [Q, D] of its frames and of its sound; None if it has none."""

    read: ReadMedium
    video_tokens: Tensor | None
    audio_tokens: Tensor | None
    decode_seconds: float
    encode_seconds: float
    warnings: tuple[str, ...] = ()
    """Set if the medium is unlike the training media of a model that tests this."""


def warnings_of(media: Sequence[EncodedMedium]) -> list[str]:
    """Return the different warnings about some media, in order."""
    return list(dict.fromkeys(warning for medium in media for warning in medium.warnings))


GivenMedium = MediaSource | ReadMedium | EncodedMedium
"""A medium as chats and requests accept it: a source, or the result of reading or encoding one."""


@dataclass(frozen=True)
class PreparedTurn:
    """A question that is ready to be answered.

    ``said`` is the conversation with the question, ``shown`` the part of it that fits into the context.
    """

    question: str
    said: Conversation
    shown: Conversation
    prompt: EncodedPrompt
    media: tuple[EncodedMedium, ...]
    decoding: Decoding
    subtitles: Subtitles | None = None
    """Given with the question; they are part of the prompt."""

    @property
    def dropped_turns(self) -> int:
        """Number of old turns that do not fit."""
        assistant = self.said.template.roles[1]
        said, shown = ([m.role for m in c.messages].count(assistant) for c in (self.said, self.shown))
        return said - shown


@dataclass
class Effort:
    """Cost of an answer: prompt tokens reused from the cache, and seconds."""

    reused: int = 0
    prefill: float = 0.0
    generate: float = 0.0


@contextmanager
def block_activity(description: str, blocks: Sequence[nn.Module]) -> Iterator[None]:
    """An activity that advances when one of these modules has been computed."""
    with activity(description, len(blocks)) as advance, ExitStack() as hooks:
        if advance is not None:
            for block in blocks:
                hooks.callback(block.register_forward_hook(lambda *_: advance()).remove)
        yield


class Writer:
    """Decode the token ids of an answer one by one, until a stop string, the end token or the length limit."""

    def __init__(self, tokenizer: Tokenizer, decoder: StreamDecoder, max_new_tokens: int) -> None:
        self._eos_id, self._decoder, self._max_new_tokens = tokenizer.eos_id, decoder, max_new_tokens
        self.num_tokens = 0
        self.stop_reason: str | None = None

    @property
    def text(self) -> str:
        """The answer generated so far."""
        return self._decoder.answer

    def push(self, token: int) -> str:
        """Add the next token id and return the new text. Must not be called once ``stop_reason`` is set."""
        assert self.stop_reason is None
        self.num_tokens += 1
        if token == self._eos_id:
            self.stop_reason = END_TOKEN
            return self._decoder.finish()
        piece = self._decoder.push(token)
        if self._decoder.is_stopped:
            self.stop_reason = STOP_STRING
        elif self.num_tokens == self._max_new_tokens:
            self.stop_reason = MAX_NEW_TOKENS
            piece += self._decoder.finish()
        return piece


class Engine:
    """A model folder that answers. Raises CheckpointError if it has untrained parts: their weights are random."""

    def __init__(self, folder: ModelFolder) -> None:
        untrained = folder.manifest.untrained_parts
        if untrained:
            raise CheckpointError(
                f"{folder.path or folder.manifest.name} has untrained parts ({', '.join(untrained)}), whose weights "
                "are random. Train them (video-llama train), or load a trained folder."
            )
        self.model, self.tokenizer, self.settings = folder.model, folder.tokenizer, folder.settings
        self.config = folder.model.config
        self.template = template_of(self.config.prompt_template, self.config.turn_format)
        self._folder = folder
        self._guard = TextGuard.of(self.template, (*self.tokenizer.special_texts, VIDEO_PLACE, AUDIO_PLACE))
        self.model.generation_config.stop_strings = None  # ``StreamDecoder`` finds them
        self._video_processor = VideoProcessor.from_settings(self.settings)
        self._audio_processor = AudioProcessor(self.settings)
        self.familiarity = folder.familiarity
        self.prefixes = MediaPrefixes()
        """Beginnings of prompts about recent media, shared by the conversations."""
        tests = () if self.familiarity is None else self.familiarity.tests
        self._recorder = FeatureRecorder(self.model.model, [(test.part, test.block) for test in tests])
        self.max_frames = int(self.config.max_frame_pos)
        """Largest number of frames of a medium."""

    def interpolate_positions(self) -> None:
        """Allow more frames than the model has positions for; see ``SequenceQFormer.positions``.

        The configuration of the model does not change.
        """
        self.model.model.video_qformer.interpolates_positions = True
        self.max_frames = INTERPOLATION_FACTOR * int(self.config.max_frame_pos)

    @cached_property
    def weights(self) -> dict[str, Any]:
        """name, path, files and notice of the weights."""
        return describe_weights(self._folder)

    @property
    def context_length(self) -> int:
        """Maximum number of tokens of prompt and answer together."""
        return int(self.config.text_config.max_position_embeddings)

    def read(self, source: MediaSource, options: MediaOptions, kind: MediaKind | None = None) -> ReadMedium:
        """Read the frames and sound of a medium. See ``processors.medium.read_medium``."""
        return read_medium(
            source,
            self.settings,
            options,
            max_frames=self.max_frames,
            with_audio_branch=self.config.with_audio_branch,
            kind=kind,
        )

    def open_windows(self, source: MediaSource, options: MediaOptions) -> WindowReader:
        """Open a long medium, to read it in windows. See ``processors.window_reader``."""
        return WindowReader(
            source,
            self.settings,
            options,
            max_frames=self.max_frames,
            with_audio_branch=self.config.with_audio_branch,
        )

    def encode(self, source: GivenMedium, options: MediaOptions, kind: MediaKind | None = None) -> EncodedMedium:
        """Read a medium and encode it; a medium that was read or encoded before is used as it is."""
        if isinstance(source, EncodedMedium):
            return source
        start = time.perf_counter()
        with activity("decoding media"):
            read = source if isinstance(source, ReadMedium) else self.read(source, options, kind)
            frames, mel = self.inputs(read)
        decoded = time.perf_counter()
        body = self.model.model
        blocks = self._encoder_blocks(has_frames=frames is not None, has_sound=mel is not None)
        with torch.no_grad(), self._recorder.recording() as features, block_activity("encoding media", blocks):
            video = None if frames is None else body.encode_video(frames[None])[0]
            audio = None if mel is None else body.encode_audio(mel[None])[0]
            warnings = [] if self.familiarity is None else self.familiarity.warnings(features)
        seconds = decoded - start, time.perf_counter() - decoded
        return EncodedMedium(read, video, audio, *seconds, (*warnings, *self._position_warnings(read)))

    def _position_warnings(self, read: ReadMedium) -> list[str]:
        """Return the warning about interpolated positions, or an empty list."""
        count, limit = 0 if read.frames is None else len(read.frames.frames), self.config.max_frame_pos
        return [INTERPOLATED.format(count=count, limit=limit)] if count > limit else []

    def _encoder_blocks(self, *, has_frames: bool, has_sound: bool) -> list[nn.Module]:
        body = self.model.model
        blocks: list[nn.Module] = [*body.frame_encoder.vision_model.encoder.layers] if has_frames else []
        return [*blocks, *body.imagebind_audio.blocks] if has_sound else blocks

    def encode_all(self, media: Sequence[ReadMedium]) -> list[EncodedMedium]:
        """Encode several media. On a GPU, frames are encoded in one batch, and so are sounds.

        On a CPU, and with tests of familiarity, they are encoded one by one; so results do not depend on the batch.
        """
        if self.model.device.type == "cpu" or self.familiarity is not None:
            return [self.encode(read, MediaOptions()) for read in media]
        return self._encode_batch(media)

    def _encode_batch(self, media: Sequence[ReadMedium]) -> list[EncodedMedium]:
        start = time.perf_counter()
        inputs = [self.inputs(read) for read in media]
        decoded = time.perf_counter()
        body = self.model.model
        frames, mels = ([each for each in column if each is not None] for column in zip(*inputs, strict=True))
        with torch.no_grad():
            video = iter(body.encode_video(frames) if frames else ())
            audio = iter(body.encode_audio(mels) if mels else ())
            tokens = [(None if f is None else next(video), None if m is None else next(audio)) for f, m in inputs]
        share = len(media) or 1
        seconds = (decoded - start) / share, (time.perf_counter() - decoded) / share
        return [
            EncodedMedium(read, *pair, *seconds, tuple(self._position_warnings(read)))
            for read, pair in zip(media, tokens, strict=True)
        ]

    def encode_steps(self, read: ReadMedium) -> Steps[EncodedMedium]:
        """Encode a medium as :meth:`encode` does, in small steps between which the caller can do other work.

        ``encode_seconds`` is the time of the steps. In one thread, only one medium can be encoded at a time.
        """
        encoded, seconds = yield from timed(self._encode_steps(read))
        return replace(encoded, encode_seconds=seconds)

    def _encode_steps(self, read: ReadMedium) -> Steps[EncodedMedium]:
        (frames, mel), body = self.inputs(read), self.model.model
        with self._recorder.recording() as features:
            video = None if frames is None else (yield from video_steps(body, frames))
            audio = None if mel is None else (yield from audio_steps(body, mel))
            warnings = [] if self.familiarity is None else self.familiarity.warnings(features)
        return EncodedMedium(read, video, audio, 0.0, 0.0, (*warnings, *self._position_warnings(read)))

    def attention(self, read: ReadMedium) -> QueryAttention:
        """Return the attention of the video and audio queries over a medium. See ``query_attention``."""
        return query_attention(self.model.model, *self.inputs(read))

    def inputs(self, read: ReadMedium) -> tuple[Tensor | None, Tensor | None]:
        """Return normalized frames [T, 3, H, W] and mel clips [S, 1, bins, steps] on the model's device."""
        device = self.model.device
        frames = None if read.frames is None else self._video_processor(read.frames.frames)
        mel = self.mel_clips(read)
        return (
            None if frames is None else torch.from_numpy(frames).to(device),
            None if mel is None else torch.from_numpy(mel).to(device),
        )

    def mel_clips(self, read: ReadMedium) -> np.ndarray | None:
        """Return the normalized log-mel clips [S, 1, bins, steps] of a medium, or None if it has no sound."""
        return None if read.sound is None else self._audio_processor.process(read.sound).mel

    def conversation(self, system: str | None = None, *, raw_prompt: bool = False) -> Conversation:
        """Start a conversation. Control tokens and turns in its texts are neutralized, except with ``raw_prompt``."""
        return Conversation(self.template, system, guard=None if raw_prompt else self._guard)

    def turn(
        self,
        conversation: Conversation,
        media: Sequence[EncodedMedium],
        question: str,
        decoding: Decoding,
        subtitles: Subtitles | None = None,
    ) -> PreparedTurn:
        """Prepare a question in a conversation, which is not changed. Raises PromptError if empty or too long.

        ``subtitles`` are put before the question, with their times.
        """
        if not question.strip():
            raise PromptError("The question is empty. Enter a question.")
        decoding = decoding.resolved(self.context_length)
        said = replace(conversation, messages=list(conversation.messages))
        said.ask(subtitled_question(subtitles, question))
        assert decoding.max_new_tokens is not None, "resolved() sets it"
        shown, prompt = fit_history(
            said,
            self.tokenizer,
            context_length=self.context_length,
            max_new_tokens=decoding.max_new_tokens,
            num_video_tokens=self.config.num_video_query_tokens,
            num_audio_tokens=self.config.num_audio_query_tokens,
        )
        return PreparedTurn(question, said, shown, prompt, tuple(media), decoding, subtitles)

    def embed(self, turns: Sequence[PreparedTurn]) -> tuple[Tensor, Tensor]:
        """Return the embedded prompts with the media tokens in place, left-padded: ([B, L, D], mask [B, L])."""
        length = max(len(turn.prompt.input_ids) for turn in turns)
        gaps = [length - len(turn.prompt.input_ids) for turn in turns]
        pad_id, device = self.tokenizer.pad_id, self.model.device
        rows = [[pad_id] * gap + turn.prompt.input_ids for gap, turn in zip(gaps, turns, strict=True)]
        mask_BL = torch.tensor([[0] * gap + [1] * (length - gap) for gap in gaps], device=device)
        media = [medium for turn in turns for medium in turn.media]
        video = [medium.video_tokens for medium in media if medium.video_tokens is not None]
        audio = [medium.audio_tokens for medium in media if medium.audio_tokens is not None]
        with torch.no_grad():
            embeds_BLD = self.model.model.embed_inputs(
                torch.tensor(rows, device=device),
                video_features=torch.stack(video) if video else None,
                audio_features=torch.stack(audio) if audio else None,
            )
        return embeds_BLD, mask_BL

    def writer(self, turn: PreparedTurn) -> Writer:
        """Return the writer of this turn's answer."""
        assert turn.decoding.max_new_tokens is not None, "resolved() sets it"
        return Writer(self.tokenizer, StreamDecoder(self.tokenizer, self.template), turn.decoding.max_new_tokens)

    def record(self, turn: PreparedTurn, writer: Writer, effort: Effort, new_media: Sequence[EncodedMedium]) -> Record:
        """Return the record of an answer; ``new_media`` are those that were decoded for this turn."""
        media = [medium.read for medium in turn.media]
        return Record(
            question=turn.question,
            weights=self.weights,
            modalities=describe_modalities(media),
            media=[medium.as_dict() for medium in media],
            prompt=turn.shown.text(),
            prompt_sha256=prompt_hash(turn.prompt.input_ids),
            decoding=asdict(turn.decoding),
            tokens={
                "prompt": len(turn.prompt.input_ids),
                "media": sum(span.length for span in turn.prompt.spans),
                "reused": effort.reused,
                "generated": writer.num_tokens,
            },
            seconds={
                "decode_media": sum(medium.decode_seconds for medium in new_media),
                "encode_media": sum(medium.encode_seconds for medium in new_media),
                "prefill": effort.prefill,
                "generate": effort.generate,
            },
            stop_reason=writer.stop_reason or CLOSED,
            dropped_turns=turn.dropped_turns,
            warnings=warnings_of(turn.media),
            neutralized=turn.shown.neutralized(),
            subtitles=None if turn.subtitles is None else turn.subtitles.as_dict(),
        )
