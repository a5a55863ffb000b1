"""Write a SentencePiece model as ``tokenizer.json``, the file of the tokenizers library, with the same token ids.

In: a BPE model with identity normalization, such as LLaMA's. Out: the content of ``tokenizer.json``, whose ids equal
those of ``Tokenizer.encode`` for every text between special tokens: each such text gets its own leading space mark.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sentencepiece import sentencepiece_model_pb2

from video_llama.conversation.tokenization import AUDIO_PLACE, VIDEO_PLACE, Tokenizer
from video_llama.errors import CheckpointError

SPACE_MARK = "\N{LOWER ONE EIGHTH BLOCK}"
BPE = 2
"""``model_type`` of a SentencePiece model that was trained with byte-pair encoding."""
NORMAL, UNKNOWN, USER_DEFINED, BYTE = 1, 2, 4, 6
"""Types of pieces."""


def tokenizer_json(model_path: str | Path, *, pad_token: str | None = None) -> dict[str, Any]:
    """Return the content of ``tokenizer.json`` for a SentencePiece model.

    ``<unk>``, ``<s>``, ``</s>``, the padding token and the media places ``<video>`` and ``<audio>`` are added special
    tokens, with the ids of ``Tokenizer``. Pieces that the model's author defined are split from the text before the
    merges, as SentencePiece does.

    Raises CheckpointError for a file that is not a SentencePiece model, or whose rules tokenizer.json cannot express.
    """
    tokenizer = Tokenizer(model_path, pad_token=pad_token)
    proto: Any = sentencepiece_model_pb2.ModelProto()  # type: ignore[attr-defined]
    proto.ParseFromString(Path(model_path).read_bytes())
    _check_rules(proto, model_path)
    pieces = [(piece.piece, piece.type, piece.score) for piece in proto.pieces]
    vocab = {text: index for index, (text, _, _) in enumerate(pieces)}
    merges = list(_merges({text: score for text, kind, score in pieces if kind in (NORMAL, USER_DEFINED)}, vocab))
    own = sorted((text for text, kind, _ in pieces if kind == USER_DEFINED), key=len, reverse=True)
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": _added_tokens(tokenizer),
        "normalizer": _normalizer(proto.normalizer_spec.add_dummy_prefix),
        "pre_tokenizer": _isolated(own),
        "post_processor": _bos_first(tokenizer),
        "decoder": _decoder(),
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": pieces[tokenizer.unk_id][0],
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": True,
            "byte_fallback": bool(proto.trainer_spec.byte_fallback),
            # A piece of the model's author is a text of its own here, and becomes its id without merges.
            "ignore_merges": bool(own),
            "vocab": vocab,
            "merges": merges,
        },
    }


def _check_rules(proto: Any, path: str | Path) -> None:
    """Raise CheckpointError unless the model is BPE and leaves the text as it is."""
    trainer, normalizer = proto.trainer_spec, proto.normalizer_spec
    wrong = [
        ("model type", trainer.model_type, BPE),
        ("treat_whitespace_as_suffix", trainer.treat_whitespace_as_suffix, False),
        ("escape_whitespaces", normalizer.escape_whitespaces, True),
        ("remove_extra_whitespaces", normalizer.remove_extra_whitespaces, False),
        ("size of the character map", len(normalizer.precompiled_charsmap), 0),
    ]
    for name, value, expected in wrong:
        if value != expected:
            raise CheckpointError(
                f"{path}: {name} is {value}, but only {expected} can be written as tokenizer.json. Use a BPE model "
                "with normalization identity, such as LLaMA's."
            )


def _merges(scores: dict[str, float], vocab: dict[str, int]) -> Iterator[list[str]]:
    """Yield the pairs of pieces that form a piece, best first: SentencePiece merges the pair with the best score."""
    ranked = sorted((text for text in scores if len(text) > 1), key=lambda text: (-scores[text], vocab[text]))
    for text in ranked:
        halves = [(text[:cut], text[cut:]) for cut in range(1, len(text))]
        known = [(left, right) for left, right in halves if left in scores and right in scores]
        yield from ([left, right] for left, right in sorted(known, key=lambda pair: (vocab[pair[0]], vocab[pair[1]])))


def _added_tokens(tokenizer: Tokenizer) -> list[dict[str, Any]]:
    ids = {tokenizer.encode(text)[0]: text for text in tokenizer.special_texts}
    ids |= {tokenizer.video_token_id: VIDEO_PLACE, tokenizer.audio_token_id: AUDIO_PLACE}
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    return [{"id": token, "content": text, **flags} for token, text in sorted(ids.items())]


def _normalizer(add_dummy_prefix: bool) -> dict[str, Any]:
    """Mark spaces, and put one mark before the text. It is applied to each text between added tokens."""
    marked: list[dict[str, Any]] = [{"type": "Replace", "pattern": {"String": " "}, "content": SPACE_MARK}]
    if add_dummy_prefix:
        marked.insert(0, {"type": "Prepend", "prepend": SPACE_MARK})
    return {"type": "Sequence", "normalizers": marked}


def _isolated(texts: list[str]) -> dict[str, Any] | None:
    """Split the author's pieces from the text. Without merges, a text such as ``<0x0A>`` between two of them would be
    the byte's piece; its first character is split from it."""
    if not texts:
        return None
    own = "|".join(re.sub(r"([^\w\s])", r"\\\1", text) for text in texts)
    pattern = rf"{own}|(?<={own})<(?=0x[0-9A-F]{{2}}>(?:{own}|\z))"
    return {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}


def _bos_first(tokenizer: Tokenizer) -> dict[str, Any]:
    """Put the BOS token before a text, if special tokens are requested."""
    [bos] = [text for text in tokenizer.special_texts if tokenizer.encode(text) == [tokenizer.bos_id]]

    def layout(*sequences: str) -> list[dict[str, Any]]:
        parts: list[dict[str, Any]] = []
        for index, name in enumerate(sequences):
            parts += [
                {"SpecialToken": {"id": bos, "type_id": index}},
                {"Sequence": {"id": name, "type_id": index}},
            ]
        return parts

    tokens = {bos: {"id": bos, "ids": [tokenizer.bos_id], "tokens": [bos]}}
    return {"type": "TemplateProcessing", "single": layout("A"), "pair": layout("A", "B"), "special_tokens": tokens}


def _decoder() -> dict[str, Any]:
    """Turn marks into spaces and byte pieces into characters, and drop the first space."""
    steps: list[dict[str, Any]] = [
        {"type": "Replace", "pattern": {"String": SPACE_MARK}, "content": " "},
        {"type": "ByteFallback"},
        {"type": "Fuse"},
        {"type": "Strip", "content": " ", "start": 1, "stop": 0},
    ]
    return {"type": "Sequence", "decoders": steps}
