"""Read a decoder's folder: config.json, the tokenizer, and the prompt style.

The prompt style and the stop string depend on the model. LLaMA-2-Chat and Vicuna have the same shapes, except that
Vicuna v0 has one row more (``[PAD]``), so the name of the folder and its chat template count too. Contradictions are
errors. Any other LLaMA is used with its own tokenizer.json and chat template.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from video_llama.checkpoints.config import ModelType
from video_llama.checkpoints.decoder_chat_template import read_chat_template
from video_llama.conversation import CHAT_TEMPLATE, TOKENIZER_JSON, TOKENIZER_MODEL, Tokenizer
from video_llama.errors import CheckpointError
from video_llama.files import read_json
from video_llama.log import logger

MODEL_TYPE_TEMPLATES: dict[ModelType, str] = {"vicuna": "default", "llama_v2": "llama2", "chat_template": CHAT_TEMPLATE}
"""The reference's ``--model_type``, or ``chat_template``, -> our prompt template."""

PAD_TOKEN = "[PAD]"
"""The token that Vicuna v0 adds to LLaMA's vocabulary."""

_NOT_DIMENSIONS = ("architectures", "auto_map", "dtype", "model_type", "torch_dtype", "transformers_version")
_LLAMA_2 = re.compile(r"llama[-_ ]?v?2(?!\d)", re.IGNORECASE)


@dataclass(frozen=True)
class DecoderFolder:
    """The contents of a decoder's folder other than its weights."""

    folder: Path
    text_config: dict[str, Any]
    """Arguments of LlamaConfig, with the tokenizer's special token ids."""
    tokenizer: Tokenizer
    pad_token: str | None
    model_type: ModelType
    turn_format: dict[str, Any] | None = None
    """The texts around messages of a decoder with its own chat template, and its ``system`` text."""


def read_decoder_folder(folder: Path, num_rows: int, requested: ModelType | None) -> DecoderFolder:
    """Read the folder of a decoder whose token embedding has ``num_rows`` rows.

    ``requested`` is the user's model type. Raises CheckpointError for missing files, a model other than LLaMA, a
    tokenizer of another size, a model type that is unknown or contradicts ``requested``, and a chat template that
    cannot be used.
    """
    config = _read_json(folder / "config.json")
    if config.get("model_type") != "llama":
        raise CheckpointError(f"{folder} contains a {config.get('model_type')!r} model. The decoder must be a LLaMA.")
    dimensions = {key: value for key, value in config.items() if not key.startswith("_") and key not in _NOT_DIMENSIONS}
    if _uses_chat_template(folder, config, requested):
        return _with_chat_template(folder, dimensions, num_rows)
    tokenizer_path = folder / TOKENIZER_MODEL
    num_tokens = Tokenizer(tokenizer_path).vocab_size
    if num_rows not in (num_tokens, num_tokens + 1):
        raise CheckpointError(
            f"{folder}: the token embedding has {num_rows} rows, but tokenizer.model has {num_tokens} tokens. Only "
            f"one more row is allowed (Vicuna's {PAD_TOKEN}). Use the tokenizer of this decoder."
        )
    pad_token = PAD_TOKEN if num_rows > num_tokens else None
    tokenizer = Tokenizer(tokenizer_path, pad_token=pad_token)
    ids = {"pad_token_id": tokenizer.pad_id, "bos_token_id": tokenizer.bos_id, "eos_token_id": tokenizer.eos_id}
    model_type = _model_type(folder, _evidence(folder, config, pad_token), requested)
    return DecoderFolder(folder, dimensions | ids, tokenizer, pad_token, model_type)


def _uses_chat_template(folder: Path, config: Mapping[str, Any], requested: ModelType | None) -> bool:
    """Return whether the prompts are those of the folder's own chat template.

    They are if the folder has no ``tokenizer.model``, or if it is neither LLaMA-2-Chat nor Vicuna.
    """
    if requested is not None:
        return requested == CHAT_TEMPLATE
    if not (folder / TOKENIZER_JSON).is_file():
        return False
    if not (folder / TOKENIZER_MODEL).is_file():
        return True
    has_template = (folder / "chat_template.jinja").is_file() or "chat_template" in _tokenizer_config(folder)
    return has_template and not _evidence(folder, config, None)


def _with_chat_template(folder: Path, dimensions: dict[str, Any], num_rows: int) -> DecoderFolder:
    tokenizer, template = read_chat_template(folder)
    if num_rows < tokenizer.vocab_size:
        raise CheckpointError(
            f"{folder}: the token embedding has {num_rows} rows, but tokenizer.json has {tokenizer.vocab_size} tokens. "
            "Use the tokenizer of this decoder."
        )
    assert template.turns is not None
    ids = {"pad_token_id": tokenizer.pad_id, "bos_token_id": tokenizer.bos_id, "eos_token_id": tokenizer.eos_id}
    turn_format = template.turns.as_dict() | {"system": template.system}
    return DecoderFolder(folder, dimensions | ids, tokenizer, None, "chat_template", turn_format)


def _evidence(folder: Path, config: Mapping[str, Any], pad_token: str | None) -> dict[ModelType, str]:
    """Return model type -> the observation that indicates it."""
    evidence: dict[ModelType, str] = {}
    template = str(_tokenizer_config(folder).get("chat_template"))
    if "<<SYS>>" in template:
        evidence["llama_v2"] = "its chat template contains <<SYS>>"
    for name in (folder.resolve().name, str(config.get("_name_or_path", ""))):
        if "vicuna" in name.lower():
            evidence["vicuna"] = f"its name is {name}"
        elif _LLAMA_2.search(name):
            evidence["llama_v2"] = f"its name is {name}"
    if pad_token is not None:
        evidence["vicuna"] = f"its vocabulary contains Vicuna v0's {PAD_TOKEN}"
    return evidence


def _model_type(folder: Path, evidence: Mapping[ModelType, str], requested: ModelType | None) -> ModelType:
    if len(evidence) > 1:
        listed = ", but ".join(f"{reason} ({kind})" for kind, reason in evidence.items())
        raise CheckpointError(
            f"The model type of {folder} is ambiguous: {listed}. Rename the folder, or use its own tokenizer files."
        )
    if requested is None and not evidence:
        raise CheckpointError(
            f"The model type of {folder} is unknown: LLaMA-2-Chat and Vicuna need different prompts. Set --model_type "
            "llama_v2 or --model_type vicuna. A decoder with its own prompts needs tokenizer.json and a chat template."
        )
    found = next(iter(evidence), None)
    if requested is not None and found is not None and requested != found:
        raise CheckpointError(
            f"model_type is {requested}, but {folder} is {found}: {evidence[found]}. Use --model_type {found}, or "
            "another decoder."
        )
    model_type = found or requested
    assert model_type is not None
    if model_type == "vicuna" and PAD_TOKEN not in evidence.get("vicuna", ""):
        logger.warning("%s has no %s, so it is not Vicuna v0, with which Video-LLaMA was trained.", folder, PAD_TOKEN)
    return model_type


def _tokenizer_config(folder: Path) -> dict[str, Any]:
    path = folder / "tokenizer_config.json"
    return _read_json(path) if path.is_file() else {}


def _read_json(path: Path) -> dict[str, Any]:
    try:
        data = read_json(path)
    except FileNotFoundError as error:
        raise CheckpointError(f"{path} does not exist. Copy the complete folder of the decoder.") from error
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} is not valid JSON ({error}). Copy it again.") from error
    if not isinstance(data, dict):
        raise CheckpointError(f"{path} contains a {type(data).__name__} instead of an object. Copy it again.")
    return data
