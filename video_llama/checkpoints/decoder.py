"""The decoder's folder: its config.json and tokenizer.model, and whether it is a LLaMA-2-Chat or a Vicuna.

The prompt's style and the stop follow from that. The two have equal shapes but for Vicuna v0's ``[PAD]``, so what the
folder calls itself counts too; where the signs contradict each other or the user, it is an error.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from video_llama.checkpoints.config import ModelType
from video_llama.conversation import Tokenizer
from video_llama.errors import CheckpointError
from video_llama.log import logger

MODEL_TYPE_TEMPLATES: dict[ModelType, str] = {"vicuna": "default", "llama_v2": "llama2"}
"""The reference's ``--model_type`` -> our prompt template."""

PAD_TOKEN = "[PAD]"
"""Vicuna v0's, the one row that its vocabulary has beyond LLaMA's."""

_NOT_DIMENSIONS = ("architectures", "auto_map", "dtype", "model_type", "torch_dtype", "transformers_version")
_LLAMA_2 = re.compile(r"llama[-_ ]?v?2(?!\d)", re.IGNORECASE)


@dataclass(frozen=True)
class Decoder:
    """A decoder's folder without its weights."""

    folder: Path
    text_config: dict[str, Any]
    """Arguments of LlamaConfig, with the special ids of the tokenizer."""
    tokenizer_path: Path
    pad_token: str | None
    model_type: ModelType


def read_decoder(folder: Path, num_rows: int, wanted: ModelType | None) -> Decoder:
    """Read the folder of a decoder whose word embedding has ``num_rows`` rows.

    ``wanted`` is the style that the user named. Raises CheckpointError for files that are missing or of another model,
    a tokenizer that does not fit, and a style that the folder contradicts or does not tell.
    """
    config = _read_json(folder / "config.json")
    if config.get("model_type") != "llama":
        raise CheckpointError(f"{folder} holds a {config.get('model_type')!r} model. The decoder has to be a LLaMA.")
    tokenizer_path = folder / "tokenizer.model"
    num_pieces = Tokenizer(tokenizer_path).vocab_size
    if num_rows not in (num_pieces, num_pieces + 1):
        raise CheckpointError(
            f"{folder}: the word embedding has {num_rows} rows and tokenizer.model {num_pieces} pieces. They may "
            f"differ by one, which is Vicuna's {PAD_TOKEN}. Use the tokenizer of this decoder."
        )
    pad_token = PAD_TOKEN if num_rows > num_pieces else None
    tokenizer = Tokenizer(tokenizer_path, pad_token=pad_token)
    ids = {"pad_token_id": tokenizer.pad_id, "bos_token_id": tokenizer.bos_id, "eos_token_id": tokenizer.eos_id}
    dimensions = {key: value for key, value in config.items() if not key.startswith("_") and key not in _NOT_DIMENSIONS}
    model_type = _model_type(folder, _signs(folder, config, pad_token), wanted)
    return Decoder(folder, dimensions | ids, tokenizer_path, pad_token, model_type)


def _signs(folder: Path, config: Mapping[str, Any], pad_token: str | None) -> dict[ModelType, str]:
    """What speaks for either style."""
    signs: dict[ModelType, str] = {}
    tokenizer_config = folder / "tokenizer_config.json"
    template = str(_read_json(tokenizer_config).get("chat_template")) if tokenizer_config.is_file() else ""
    if "<<SYS>>" in template:
        signs["llama_v2"] = "its chat template has <<SYS>>"
    for name in (folder.resolve().name, str(config.get("_name_or_path", ""))):
        if "vicuna" in name.lower():
            signs["vicuna"] = f"it is called {name}"
        elif _LLAMA_2.search(name):
            signs["llama_v2"] = f"it is called {name}"
    if pad_token is not None:
        signs["vicuna"] = f"its vocabulary has Vicuna v0's {PAD_TOKEN}"
    return signs


def _model_type(folder: Path, signs: Mapping[ModelType, str], wanted: ModelType | None) -> ModelType:
    if len(signs) > 1:
        told = ", and ".join(f"{sign}, so it is {kind}" for kind, sign in signs.items())
        raise CheckpointError(f"{folder} contradicts itself: {told}. Rename it, or use its own tokenizer files.")
    if wanted is None and not signs:
        raise CheckpointError(
            f"{folder} does not tell whether it is a LLaMA-2-Chat or a Vicuna, and their prompts differ. Say it: "
            "--model_type llama_v2 or --model_type vicuna."
        )
    found = next(iter(signs), None)
    if wanted is not None and found is not None and wanted != found:
        raise CheckpointError(
            f"model_type is {wanted}, and {folder} is {found}: {signs[found]}. Use --model_type {found}, or the "
            "decoder that you mean."
        )
    model_type = found or wanted
    assert model_type is not None
    if model_type == "vicuna" and PAD_TOKEN not in signs.get("vicuna", ""):
        logger.warning("%s has no %s: Vicuna v1.1 has none, and Video-LLaMA was trained with v0.", folder, PAD_TOKEN)
    return model_type


def _read_json(path: Path) -> dict[str, Any]:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise CheckpointError(f"{path} does not exist. Copy the decoder's whole folder.") from error
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} is not readable JSON ({error}). Copy it again.") from error
    if not isinstance(data, dict):
        raise CheckpointError(f"{path} holds a {type(data).__name__}, not an object. Copy it again.")
    return data
