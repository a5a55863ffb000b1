"""Write the tokenizer, prompt and generation files that transformers reads.

These are tokenizer.json, tokenizer_config.json, chat_template.jinja and generation_config.json. The token ids are those
of ``video_llama.conversation``, and the chat template renders a conversation as that package does, with ``<video>`` and
``<audio>`` at the places of media.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transformers import GenerationConfig

from video_llama.conversation import (
    AUDIO_PLACE,
    REFERENCE_DECODING,
    TEMPLATES,
    VIDEO_PLACE,
    Tokenizer,
    chat_template,
    tokenizer_json,
)

ANSWER_TOKENS = int(REFERENCE_DECODING["max_new_tokens"])
"""Largest number of tokens of an answer; models with a small context use at most half of it, as in ``Chat``."""


def write_tokenizer_files(
    folder: Path, tokenizer: Tokenizer, pad_token: str | None, template: str, *, context_length: int = 2048
) -> None:
    """Write the four files into a folder that contains ``tokenizer.model``.

    ``template`` is a key of TEMPLATES, and ``context_length`` the largest number of tokens of prompt and answer.
    """
    content = json.dumps(tokenizer_json(folder / "tokenizer.model", pad_token=pad_token), ensure_ascii=False)
    (folder / "tokenizer.json").write_text(content, encoding="utf-8")
    # This class takes tokenizer.json as it is. LlamaTokenizer of transformers 5 builds rules of its own.
    config = _special_tokens(tokenizer, pad_token) | {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "padding_side": "left",
        "clean_up_tokenization_spaces": False,
        "extra_special_tokens": {"video_token": VIDEO_PLACE, "audio_token": AUDIO_PLACE},
        "processor_class": "VideoLlamaProcessor",
    }
    _write_json(folder / "tokenizer_config.json", config)
    (folder / "chat_template.jinja").write_text(chat_template(template), encoding="utf-8")
    stop = TEMPLATES[template].stop_string
    stop_strings = () if stop in tokenizer.special_texts else (stop,)
    write_generation_config(folder, tokenizer, stop_strings, max_new_tokens=min(ANSWER_TOKENS, context_length // 2))


def write_decoder_tokenizer_files(folder: Path, tokenizer: Tokenizer, pad_token: str | None) -> None:
    """Write the files of a decoder's own folder, which the reference and LlamaTokenizer read; it has no media."""
    config = _special_tokens(tokenizer, pad_token) | {
        "tokenizer_class": "LlamaTokenizer",
        "add_bos_token": True,
        "add_eos_token": False,
        "clean_up_tokenization_spaces": False,
    }
    _write_json(folder / "tokenizer_config.json", config)
    write_generation_config(folder, tokenizer)


def write_generation_config(
    folder: Path,
    tokenizer: Tokenizer,
    stop_strings: tuple[str, ...] = (),
    *,
    max_new_tokens: int | None = None,
    more_ends: Sequence[int] = (),
) -> None:
    """Set the ids, and what ends an answer beside the end token, in ``generation_config.json``.

    ``more_ends`` are other tokens that end an answer. A ``max_new_tokens`` in the file is kept.
    """
    has_file = (folder / "generation_config.json").is_file()
    config: Any = GenerationConfig.from_pretrained(folder) if has_file else GenerationConfig()  # type: ignore[no-untyped-call]
    config.bos_token_id, config.eos_token_id, config.pad_token_id = tokenizer.bos_id, tokenizer.eos_id, tokenizer.pad_id
    if more_ends:
        config.eos_token_id = [tokenizer.eos_id, *more_ends]
    config.stop_strings = list(stop_strings) or None
    config.max_new_tokens = config.max_new_tokens or max_new_tokens
    config.save_pretrained(folder)


def _special_tokens(tokenizer: Tokenizer, pad_token: str | None) -> dict[str, Any]:
    texts = {tokenizer.encode(text)[0]: text for text in tokenizer.special_texts}
    ids = {"bos_token": tokenizer.bos_id, "eos_token": tokenizer.eos_id, "unk_token": tokenizer.unk_id}
    names: dict[str, Any] = {name: texts[token] for name, token in ids.items()}
    return {**names, "pad_token": pad_token or names["unk_token"]}


def _write_json(path: Path, data: dict[str, Any]) -> None:
    path.write_text(json.dumps(data, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
