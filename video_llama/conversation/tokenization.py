"""A SentencePiece tokenizer with the rules of the slow LLaMA tokenizer of transformers 4.28.

The reference's checkpoints were trained with these rules (golden ``text.json``: tokenize), and newer versions of
transformers differ: each text between special tokens is encoded separately and gets its own leading space mark;
whitespace next to a media placeholder is dropped, next to ``<s>``, ``</s>``, ``<unk>`` and ``[PAD]`` it is kept. Any
SentencePiece model can be used.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Literal

import sentencepiece

from video_llama.conversation.conversation_video import PLACEHOLDER, Prompt, Slot
from video_llama.errors import CheckpointError, PromptError

TOKENIZER_MODEL = "tokenizer.model"
AUDIO_PLACEHOLDER = "<AudioHere>"
VIDEO_PLACE, AUDIO_PLACE = "<video>", "<audio>"
"""Texts of the ids of the media places, as in a model folder's tokenizer.json."""


def common_length(first: Sequence[Hashable], second: Sequence[Hashable]) -> int:
    """Return the length of the common prefix of two sequences of token ids or labels."""
    limit = min(len(first), len(second))
    return next((index for index in range(limit) if first[index] != second[index]), limit)


class Tokenizer:
    """A SentencePiece model with the reference's additional special tokens.

    With ``pad_token=None``, padding uses the unknown token, as in a LLaMA-2 folder. ``"[PAD]"`` adds a new id after
    the model's pieces, as in a Vicuna-v0 folder. The two media places have the next two ids; media tokens replace them
    in the decoder's input. ``FastTokenizer`` has the same interface.

    Raises CheckpointError if the file is missing or is not a SentencePiece model.
    """

    def __init__(self, model_path: str | Path, *, pad_token: str | None = None) -> None:
        self._path = Path(model_path)
        self._model = _load(self._path)
        num_pieces = int(self._model.get_piece_size())
        self.unk_id, self.bos_id, self.eos_id = self._model.unk_id(), self._model.bos_id(), self._model.eos_id()
        if min(self.bos_id, self.eos_id) < 0:
            raise CheckpointError(f"{model_path} has no BOS or EOS token. Train it with bos_id and eos_id set.")
        self._special = {i: str(self._model.id_to_piece(i)) for i in (self.unk_id, self.bos_id, self.eos_id)}
        self.pad_id = self.unk_id
        self.vocab_size = num_pieces
        """Number of ids of text: the pieces, plus ``[PAD]`` if it was added. The ids of the media places follow."""
        if pad_token is not None:
            known = int(self._model.piece_to_id(pad_token))
            self.pad_id = known if known != self.unk_id else num_pieces
            self.vocab_size = max(num_pieces, self.pad_id + 1)
            self._special[self.pad_id] = pad_token
        self.video_token_id, self.audio_token_id = self.vocab_size, self.vocab_size + 1
        self._added = {self.video_token_id: VIDEO_PLACE, self.audio_token_id: AUDIO_PLACE}
        if self.pad_id >= num_pieces:
            self._added[self.pad_id] = self._special[self.pad_id]
        self._ids = {text: i for i, text in self._special.items()}
        self._ids |= {PLACEHOLDER: self.video_token_id, AUDIO_PLACEHOLDER: self.audio_token_id}
        self._split_text = _splitter(self._special.values())
        self._split_placeholders = _splitter(self._ids)

    def save(self, folder: Path) -> None:
        """Write ``tokenizer.model`` into a folder."""
        shutil.copyfile(self._path, folder / TOKENIZER_MODEL)

    @property
    def special_ids(self) -> frozenset[int]:
        """The BOS, EOS, unknown and padding ids."""
        return frozenset(self._special)

    @property
    def special_texts(self) -> tuple[str, ...]:
        """The texts that ``encode`` replaces by the BOS, EOS, unknown and padding ids, such as ``<s>``."""
        return tuple(self._special.values())

    def encode(self, text: str, *, add_bos: bool = False, placeholders: bool = False) -> list[int]:
        """Return the token ids of one segment.

        With ``placeholders``, ``<ImageHere>`` and ``<AudioHere>`` become their ids, and whitespace next to them is
        dropped. Without it they are ordinary text, since a user may type them.

        Raises PromptError for a lone surrogate, which results from a command-line argument that is not valid UTF-8.
        """
        check_encodable(text)
        chunks = (self._split_placeholders if placeholders else self._split_text).split(text)
        for index, chunk in enumerate(chunks):
            if placeholders and chunk in (PLACEHOLDER, AUDIO_PLACEHOLDER):
                chunks[index - 1] = chunks[index - 1].rstrip()
                chunks[index + 1] = chunks[index + 1].lstrip()
        ids = [self.bos_id] if add_bos else []
        for index, chunk in enumerate(chunks):
            if index % 2:
                ids.append(self._ids[chunk])
            elif chunk:
                ids += self._model.encode(chunk)
        return ids

    def decode(self, ids: Iterable[int], *, placeholders: bool = False) -> str:
        """Return the text of ids, with the spaces of transformers 4.28: one space around added tokens, and one before
        text that a special token ends. Invalid UTF-8 becomes U+FFFD. The media places are ``<video>`` and ``<audio>``,
        with ``placeholders`` the reference's ``<ImageHere>`` and ``<AudioHere>``.

        Raises ValueError for an id out of range.
        """
        old = {self.video_token_id: PLACEHOLDER, self.audio_token_id: AUDIO_PLACEHOLDER}
        added = self._added | old if placeholders else self._added
        texts: list[str] = []
        for is_added, run in groupby(ids, key=self._added.__contains__):
            stretch = list(run)
            texts += [added[i] for i in stretch] if is_added else [self._decode_run(stretch)]
        return " ".join(texts)

    def _decode_run(self, ids: Sequence[int]) -> str:
        """Return the text of ids without added tokens. Pieces between special tokens are decoded together."""
        text = ""
        pieces: list[int] = []
        previous_is_special = False
        for index, token in enumerate(ids):
            if not 0 <= token < self.vocab_size:
                raise ValueError(
                    f"Token id {token} is outside 0..{self.vocab_size - 1}. Use the tokenizer of the model that "
                    "generated it."
                )
            if token in self._special:
                space = " " if index and not previous_is_special else ""
                text += space + self._decode_pieces(pieces) + self._special[token]
                pieces = []
            else:
                pieces.append(token)
            previous_is_special = token in self._special
        return text + self._decode_pieces(pieces)

    def _decode_pieces(self, ids: list[int]) -> str:
        return str(self._model.decode(ids)) if ids else ""


def check_encodable(text: str) -> None:
    """Raise PromptError for a lone surrogate, which results from an argument that is not valid UTF-8."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise PromptError(
            f"Character {error.start + 1} of the text is U+{ord(text[error.start]):04X}, a lone surrogate. Encode "
            "the text as UTF-8."
        ) from error


def _load(path: Path):  # type: ignore[no-untyped-def]  # sentencepiece ships no types
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file. Give the model folder's tokenizer.model.")
    try:
        return sentencepiece.SentencePieceProcessor(model_file=str(path))
    except (RuntimeError, OSError) as e:
        raise CheckpointError(f"{path} is not a SentencePiece model. Give the model folder's tokenizer.model.") from e


def _splitter(tokens: Iterable[str]) -> re.Pattern[str]:
    """Return a pattern that splits a text into ordinary text (even indices, may be empty) and tokens (odd indices)."""
    return re.compile("(" + "|".join(map(re.escape, sorted(tokens, key=len, reverse=True))) + ")")


@dataclass(frozen=True)
class Span:
    """The placeholder ids of one medium: ``input_ids[start : start + length]``."""

    kind: Literal["video", "audio"]
    start: int
    length: int


@dataclass(frozen=True)
class EncodedPrompt:
    """Token ids with one span of placeholder ids per slot. ``spans`` are in prompt order."""

    input_ids: list[int]
    spans: list[Span]


def encode_prompt(
    tokenizer: Tokenizer, prompt: Prompt, *, num_video_tokens: int, num_audio_tokens: int
) -> EncodedPrompt:
    """Encode a prompt: each text segment separately, BOS before the first only, a span of placeholder ids per slot.

    ``num_video_tokens`` and ``num_audio_tokens`` are the numbers of tokens per medium (32 and 8 in the reference).
    """
    ids: list[int] = []
    spans: list[Span] = []
    for index, part in enumerate(prompt):
        if isinstance(part, Slot):
            ids += tokenizer.encode("", add_bos=index == 0)
            is_video = part.kind == "video"
            span = Span(part.kind, len(ids), num_video_tokens if is_video else num_audio_tokens)
            spans.append(span)
            ids += [tokenizer.video_token_id if is_video else tokenizer.audio_token_id] * span.length
        else:
            ids += tokenizer.encode(part, add_bos=index == 0)
    return EncodedPrompt(ids, spans)


def segment_ids(tokenizer: Tokenizer, prompt: Prompt) -> list[list[int]]:
    """Return the ids of the text segments only, as in the reference (golden: chat, segment_ids)."""
    return [
        tokenizer.encode(part, add_bos=index == 0) for index, part in enumerate(prompt) if not isinstance(part, Slot)
    ]
