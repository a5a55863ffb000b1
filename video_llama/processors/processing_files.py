"""The files of a processor: its settings, and the tokenizer and chat template of a folder without them."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

from video_llama.conversation import TEMPLATES, chat_template, tokenizer_json


def names_of(kind: Any) -> set[str]:
    """Return the names of a dataclass's fields."""
    return {each.name for each in fields(kind)}


def plain(value: Any) -> Any:
    """Return lists (from JSON) as tuples."""
    return tuple(value) if isinstance(value, list) else value


def template_of(name: str) -> str | None:
    """Return the chat template of a prompt format, or None for an unknown name."""
    return chat_template(name) if name in TEMPLATES else None


def tokenizer_of(path: Path, pad_token: str | None) -> PreTrainedTokenizerFast:
    """Return the tokenizer of a SentencePiece model, as tokenizer.json describes it."""
    content = tokenizer_json(path, pad_token=pad_token)
    names = {each["id"]: each["content"] for each in content["added_tokens"]}
    unk, bos, eos = (next(text for text in names.values() if text == name) for name in ("<unk>", "<s>", "</s>"))
    tokenizer = PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=Tokenizer.from_str(json.dumps(content)),
        bos_token=bos,
        eos_token=eos,
        unk_token=unk,
        pad_token=pad_token or unk,
        padding_side="left",
        clean_up_tokenization_spaces=False,
    )
    tokenizer.name_or_path = str(path.parent)
    return tokenizer
