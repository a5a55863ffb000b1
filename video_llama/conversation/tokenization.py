"""Text in, token ids out, and back: a SentencePiece tokenizer that splits as transformers 4.28's slow LLaMA
tokenizer does.

That version's rules are part of the reference's checkpoints (golden ``text.json``: tokenize): every stretch between
special tokens is encoded by itself and so gets its own leading space mark; whitespace beside a media placeholder is
dropped, beside ``<s>``, ``</s>``, ``<unk>`` and ``[PAD]`` it is kept. Newer transformers differ. Works with any
SentencePiece model.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Literal

from video_llama.conversation.conversation_video import PLACEHOLDER, Prompt, Slot
from video_llama.errors import CheckpointError, PromptError

AUDIO_PLACEHOLDER = "<AudioHere>"


class Tokenizer:
    """A SentencePiece model with the special tokens that the reference adds.

    ``pad_token`` None pads with the unknown token, as a LLaMA-2 folder does; ``"[PAD]"`` is a new id after the
    model's pieces, as in a Vicuna-v0 folder. The two media placeholders take the next ids: they stand in
    ``input_ids`` and have no embedding. Raises CheckpointError when the file is missing or is no SentencePiece model.
    """

    def __init__(self, model_path: str | Path, *, pad_token: str | None = None) -> None:
        self._model = _load(Path(model_path))
        num_pieces = int(self._model.get_piece_size())
        self.unk_id, self.bos_id, self.eos_id = self._model.unk_id(), self._model.bos_id(), self._model.eos_id()
        if min(self.bos_id, self.eos_id) < 0:
            raise CheckpointError(f"{model_path} has no begin or no end token. Train it with bos_id and eos_id set.")
        self._special = {i: str(self._model.id_to_piece(i)) for i in (self.unk_id, self.bos_id, self.eos_id)}
        self.pad_id = self.unk_id
        self.vocab_size = num_pieces
        """How many ids have an embedding: the pieces, and ``[PAD]`` where it is new. Placeholders are not counted."""
        if pad_token is not None:
            known = int(self._model.piece_to_id(pad_token))
            self.pad_id = known if known != self.unk_id else num_pieces
            self.vocab_size = max(num_pieces, self.pad_id + 1)
            self._special[self.pad_id] = pad_token
        self.video_token_id, self.audio_token_id = self.vocab_size, self.vocab_size + 1
        self._added = {self.video_token_id: PLACEHOLDER, self.audio_token_id: AUDIO_PLACEHOLDER}
        if self.pad_id >= num_pieces:
            self._added[self.pad_id] = self._special[self.pad_id]
        self._ids = {text: i for i, text in (self._special | self._added).items()}
        self._split_text = _splitter(self._special.values())
        self._split_placeholders = _splitter(self._ids)

    @property
    def special_ids(self) -> frozenset[int]:
        """Begin, end, unknown and padding: what ``decode(skip_special_tokens=True)`` leaves out."""
        return frozenset(self._special)

    def encode(self, text: str, *, add_bos: bool = False, placeholders: bool = False) -> list[int]:
        """Token ids of one segment. With ``placeholders``, ``<ImageHere>`` and ``<AudioHere>`` in the text become
        their ids and lose the whitespace beside them; without, they are words like any other (a user may type them).

        Raises PromptError for what is no text: half a surrogate pair, as bytes that are no UTF-8 become in an argument.
        """
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise PromptError(
                f"Character {error.start + 1} of the text is U+{ord(text[error.start]):04X}, which is no character by "
                "itself. Write the text in UTF-8."
            ) from error
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

    def decode(self, ids: Iterable[int], *, skip_special_tokens: bool = False) -> str:
        """Text of ids, spaced as transformers 4.28 spaces it: one space around added tokens, and one in front of a
        stretch that a special token ends. Bytes that are no UTF-8 become U+FFFD.

        Raises ValueError for an id out of range.
        """
        kept = [i for i in ids if not (skip_special_tokens and i in self._special)]
        texts: list[str] = []
        for is_added, run in groupby(kept, key=self._added.__contains__):
            stretch = list(run)
            texts += [self._added[i] for i in stretch] if is_added else [self._decode_run(stretch)]
        return " ".join(texts)

    def _decode_run(self, ids: Sequence[int]) -> str:
        """Text of ids without added tokens: pieces between special tokens are decoded together."""
        text = ""
        pieces: list[int] = []
        previous_is_special = False
        for index, token in enumerate(ids):
            if not 0 <= token < self.vocab_size:
                raise ValueError(f"Token id {token} is outside 0..{self.vocab_size - 1}: another model's tokenizer?")
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


def _load(path: Path):  # type: ignore[no-untyped-def]  # sentencepiece ships no types
    import sentencepiece

    if not path.is_file():
        raise CheckpointError(f"{path}: no tokenizer there. Give the model folder's tokenizer.model.")
    try:
        return sentencepiece.SentencePieceProcessor(model_file=str(path))
    except (RuntimeError, OSError) as e:
        raise CheckpointError(f"{path} is not a SentencePiece model. Give the model folder's tokenizer.model.") from e


def _splitter(tokens: Iterable[str]) -> re.Pattern[str]:
    """Splits a text into ordinary stretches (even places, maybe empty) and the given tokens (odd places)."""
    return re.compile("(" + "|".join(map(re.escape, sorted(tokens, key=len, reverse=True))) + ")")


@dataclass(frozen=True)
class Span:
    """A medium's run of placeholder ids: ``input_ids[start : start + length]``."""

    kind: Literal["video", "audio"]
    start: int
    length: int


@dataclass(frozen=True)
class EncodedPrompt:
    """Token ids with a run of placeholder ids for every slot, and where those runs are, in prompt order."""

    input_ids: list[int]
    spans: list[Span]


def encode_prompt(
    tokenizer: Tokenizer, prompt: Prompt, *, num_video_tokens: int, num_audio_tokens: int
) -> EncodedPrompt:
    """Ids of a prompt: every text segment on its own, BOS on the first only, a run of placeholder ids for every slot.

    ``num_video_tokens`` and ``num_audio_tokens`` are the tokens that one medium becomes (32 and 8 in the reference).
    """
    ids: list[int] = []
    spans: list[Span] = []
    for index, part in enumerate(prompt):
        if isinstance(part, Slot):
            ids += [tokenizer.bos_id] if index == 0 else []
            is_video = part.kind == "video"
            span = Span(part.kind, len(ids), num_video_tokens if is_video else num_audio_tokens)
            spans.append(span)
            ids += [tokenizer.video_token_id if is_video else tokenizer.audio_token_id] * span.length
        else:
            ids += tokenizer.encode(part, add_bos=index == 0)
    return EncodedPrompt(ids, spans)


def segment_ids(tokenizer: Tokenizer, prompt: Prompt) -> list[list[int]]:
    """The ids of the text segments alone, as the reference makes them (golden: chat, segment_ids)."""
    return [
        tokenizer.encode(part, add_bos=index == 0) for index, part in enumerate(prompt) if not isinstance(part, Slot)
    ]
