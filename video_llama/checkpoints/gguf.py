"""Convert a GGUF file of a LLaMA to a decoder folder in Hugging Face's layout, by transformers and the gguf package."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import transformers
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from video_llama.checkpoints.folder import no_progress_bar
from video_llama.errors import CheckpointError, MissingExtraError
from video_llama.files import new_folder
from video_llama.models.placement import as_dtype


def decoder_from_gguf(source: str | Path, target: str | Path, *, dtype: str = "float16") -> Path:
    """Write the decoder folder ``target`` from a GGUF file: weights in ``dtype``, tokenizer.json and chat template.

    Quantized weights are expanded; the whole model is in memory. Raises CheckpointError for a file that cannot be read,
    another architecture, or a target that exists, MissingExtraError without the gguf package, and ValueError for an
    unknown dtype.
    """
    source, target = Path(source), Path(target)
    requested = as_dtype(dtype)
    try:
        import gguf  # noqa: F401
    except ImportError as error:
        raise MissingExtraError("gguf", "gguf") from error
    if not source.is_file():
        raise CheckpointError(f"{source} does not exist. Give a .gguf file.")
    if target.exists():
        raise CheckpointError(f"{target} exists. Choose another name, or remove it first.")
    file: dict[str, Any] = {"gguf_file": source.name, "local_files_only": True}
    try:
        config = LlamaConfig.get_config_dict(source.parent, **file)[0]
        if config.get("model_type") != "llama":
            raise CheckpointError(
                f"{source} contains a {config.get('model_type')!r} model. The decoder must be a LLaMA."
            )
        tokenizer = AutoTokenizer.from_pretrained(source.parent, **file)
        if hasattr(transformers, "GgufConfig"):  # newer versions would keep the quantized weights
            file["quantization_config"] = transformers.GgufConfig(dequantize=True)
        with no_progress_bar():
            model = LlamaForCausalLM.from_pretrained(source.parent, dtype=requested, **file)
    except (ValueError, KeyError, IndexError, OSError, NotImplementedError) as error:
        raise CheckpointError(f"{source} cannot be read ({error}). Give a complete GGUF file of a LLaMA.") from error
    with new_folder(target) as unfinished:
        with no_progress_bar():
            model.save_pretrained(unfinished)
        tokenizer.save_pretrained(unfinished)
    return target
