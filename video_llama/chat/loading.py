"""Load a model that answers: by name, from a model folder, or from published files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from video_llama.chat.assistant import Assistant
from video_llama.checkpoints.folder import ModelFolder, read_model_folder
from video_llama.checkpoints.loading import load_yaml_model
from video_llama.checkpoints.published_files import is_published
from video_llama.errors import CheckpointError
from video_llama.models.placement import Dtypes, LoadOptions

MINIATURE = "miniature"
MINIATURE_PATH = Path(__file__).resolve().parent.parent / "miniature" / "weights"


def model_path(name_or_path: str | Path) -> Path:
    """Return the folder or file of a model name. Raises CheckpointError if the miniature's weights are missing."""
    if str(name_or_path) != MINIATURE:
        return Path(name_or_path)
    if not MINIATURE_PATH.is_dir():
        raise CheckpointError(
            f"The miniature's weights are missing ({MINIATURE_PATH}). Reinstall the package, or train them with: "
            "video-llama miniature train"
        )
    return MINIATURE_PATH


def usable_device(device: torch.device | str | None) -> torch.device:
    """Return the device; None is the GPU if there is one, else the CPU. Raises ValueError if it cannot be used."""
    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(device)
        torch.empty(0, device=device).cpu()  # fails for "meta", which holds no values
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).partition("\n")[0]
        raise ValueError(f"device {str(device)!r} is not available ({reason}). Use cpu.") from error
    return device


def load(
    name_or_path: str | Path = MINIATURE,
    *,
    device: torch.device | str | None = None,
    dtype: Dtypes | None = None,
    quantization: str | None = None,
    device_map: Mapping[str, Any] | str | None = None,
    max_memory: Mapping[Any, Any] | None = None,
    low_resource: bool = False,
    interpolate_positions: bool = False,
    encoder_quantization: str | None = None,
    options: Sequence[str] = (),
) -> Assistant:
    """Load a model that answers questions.

    Args:
        name_or_path: "miniature" (the weights shipped with the package), a model folder, an evaluation YAML, or a
            folder with the published files. Nothing is written.
        device: device of the model; None is the GPU if there is one, else the CPU.
        dtype: data type, for all parts or by part. None keeps the stored one where the processor multiplies it; see
            ``LoadOptions``.
        quantization: "int8", "int4" or "q4_k" (CPU; needs the extra ``ggml``) quantizes the decoder.
        device_map: "auto" spreads the model over GPUs, memory and disk (disk: model folders only).
        max_memory: limits for ``device_map="auto"``.
        low_resource: the decoder in int8, the ViT on the CPU.
        interpolate_positions: allow more frames than ``max_frame_pos``. Their positions are interpolated, which is
            outside of training; the records of answers contain a warning.
        encoder_quantization: "int8" quantizes the ViT and ImageBind (x86 CPUs).
        options: overrides of the YAML, such as "model.ckpt=VL.pth".

    Raises:
        CheckpointError: weights that are missing, incomplete or untrained.
        ConfigError: an invalid YAML.
        ValueError: an unavailable device, invalid arguments, or ``options`` without a YAML.
    """
    how = LoadOptions(
        usable_device(device),
        dtype,
        quantization,
        device_map,
        max_memory,
        low_resource,
        encoder_quantization,
        interpolate_positions,
    )
    return load_assistant(name_or_path, how, options)


def load_assistant(name_or_path: str | Path, options: LoadOptions, overrides: Sequence[str] = ()) -> Assistant:
    """Load a model as :func:`load` does, with the options in one object; ``overrides`` change the YAML."""
    path, options = model_path(name_or_path), replace(options, is_for_inference=True)
    if is_published(path):
        return _assistant(load_yaml_model(path, options, overrides=overrides), options)
    if overrides:
        raise ValueError(
            f"Overrides ({', '.join(overrides)}) apply to an evaluation YAML, and {name_or_path} is not one. Remove "
            "them, or give a YAML or the folder of the published files."
        )
    return _assistant(read_model_folder(path, options), options)


def _assistant(folder: ModelFolder, options: LoadOptions) -> Assistant:
    assistant = Assistant(folder)
    if options.interpolate_positions:
        assistant.engine.interpolate_positions()
    return assistant
