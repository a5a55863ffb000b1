"""Read the tokenizer and the chat template of a decoder that is neither LLaMA-2-Chat nor Vicuna."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerFast

from video_llama.conversation import (
    TOKENIZER_JSON,
    FastTokenizer,
    Template,
    chat_template_of,
    derive_turn_format,
)
from video_llama.errors import CheckpointError


def read_chat_template(folder: Path) -> tuple[FastTokenizer, Template]:
    """Return the tokenizer of a decoder's folder and the template that its chat template amounts to.

    Prompts begin with BOS if the chat template writes it and the tokenizer adds it to every text. Raises
    CheckpointError if a file or the end token is missing, and for a chat template that cannot be used.
    """
    path = folder / TOKENIZER_JSON
    if not path.is_file():
        raise CheckpointError(f"{path} does not exist. A decoder with its own chat template needs it.")
    own = _own_tokenizer(folder)
    if own.eos_token is None:
        raise CheckpointError(f"{folder}: the tokenizer has no end token. Set eos_token in tokenizer_config.json.")
    if not own.chat_template:
        raise CheckpointError(f"{folder} has no chat template. Add chat_template.jinja, or use a chat model.")
    content = path.read_text(encoding="utf-8")
    tokens = {name: getattr(own, name) for name in ("bos_token", "eos_token", "pad_token", "unk_token")}

    def tokenizer(add_bos: bool) -> FastTokenizer:
        return FastTokenizer(content, **tokens, add_bos=add_bos, where=path)

    plain = tokenizer(False)
    bos = own.bos_token or ""
    begins_with_bos = bool(bos) and _render(own, [{"role": "user", "content": "a"}], True).startswith(bos)
    add_bos = begins_with_bos and plain.adds_bos_itself

    def render(messages: list[dict[str, str]], is_open: bool) -> str:
        text = _render(own, messages, is_open)
        return text.removeprefix(bos) if add_bos else text

    try:
        turns, system = derive_turn_format(render, plain.special_texts)
    except CheckpointError as error:
        raise CheckpointError(f"{folder}: {error}") from error
    return tokenizer(add_bos), chat_template_of(turns, system)


def _own_tokenizer(folder: Path) -> Any:
    """Return transformers' tokenizer, which takes tokenizer.json as it is and renders the chat template."""
    try:
        return PreTrainedTokenizerFast.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # errors of the tokenizers library are of type Exception
        raise CheckpointError(f"The tokenizer of {folder} cannot be read ({error}). Copy it again.") from error


def _render(own: Any, messages: list[dict[str, str]], is_open: bool) -> str:
    try:
        return str(own.apply_chat_template(messages, tokenize=False, add_generation_prompt=is_open))
    except Exception as error:  # jinja2 and templates themselves raise errors of several types
        raise CheckpointError(f"the chat template cannot be rendered ({error})") from error
