"""LoRA adapters on the linear layers of the decoder (PEFT): add them before training, merge them afterwards."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from video_llama.config import load_yaml, parse_config
from video_llama.errors import CheckpointError, ConfigError, MissingExtraError
from video_llama.models.packed_linear import PackedLinear
from video_llama.models.video_llama import VideoLlamaForConditionalGeneration
from video_llama.training.checkpoint import RUN_CONFIG_FILE
from video_llama.training.config import LoraConfig

LORA_MARK = ".lora_"
"""Substring of the names of all adapter parameters."""


def split_lora(tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Split the tensors of a checkpoint into adapters and all others."""
    adapters = {name: tensor for name, tensor in tensors.items() if LORA_MARK in name}
    return adapters, {name: tensor for name, tensor in tensors.items() if name not in adapters}


def add_lora(model: VideoLlamaForConditionalGeneration, config: LoraConfig, seed: int) -> None:
    """Add new float32 adapters to the decoder. They do not change the output until they are trained.

    The adapters of a quantized decoder have the same names. Raises ConfigError for a target that is not a linear layer
    of the decoder, and MissingExtraError without PEFT.
    """
    try:
        from peft import LoraConfig as PeftConfig
        from peft import inject_adapter_in_model
        from peft.tuners.lora import Linear as AdaptedLinear
    except ModuleNotFoundError as error:
        raise MissingExtraError("peft", "train") from error
    decoder = model.model.language_model
    kinds = (nn.Linear, PackedLinear)
    names = {name.rpartition(".")[2] for name, layer in decoder.named_modules() if isinstance(layer, kinds)}
    if unknown := set(config.targets) - names:
        raise ConfigError(
            f"model.lora.targets: the decoder has no linear layer {', '.join(sorted(unknown))}. "
            f"It has {', '.join(sorted(names))}."
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        settings = PeftConfig(
            r=config.r, lora_alpha=config.alpha, lora_dropout=config.dropout, target_modules=list(config.targets)
        )
        settings._register_custom_module({PackedLinear: AdaptedLinear})
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Unsupported layer type")  # about PackedLinear, registered above
            inject_adapter_in_model(settings, decoder)
    for name, parameter in decoder.named_parameters():
        if LORA_MARK in name:
            parameter.data = parameter.data.float()


def merge_lora(model: VideoLlamaForConditionalGeneration) -> None:
    """Add each adapter to the weight of its layer and remove it; the output of the model stays the same."""
    from peft.tuners.lora import LoraLayer

    decoder = model.model.language_model
    for name, layer in list(decoder.named_modules()):
        if isinstance(layer, LoraLayer):
            layer.merge(safe_merge=True)
            _replace(decoder, name, layer.get_base_layer())
    if hasattr(decoder, "peft_config"):
        del decoder.peft_config


def lora_of_checkpoint(folder: Path) -> LoraConfig:
    """Return ``model.lora`` of the ``config.yaml`` in a checkpoint. Raises CheckpointError if it is missing."""
    path = folder / RUN_CONFIG_FILE
    settings = load_yaml(path).get("model", {}).get("lora") if path.is_file() else None
    if settings is None:
        raise CheckpointError(f"{folder}: {path} has no adapter settings (model.lora). Give a checkpoint folder.")
    return parse_config(LoraConfig, settings, source=str(path))


def _replace(root: nn.Module, name: str, layer: nn.Module) -> None:
    parent, _, last = name.rpartition(".")
    setattr(root.get_submodule(parent), last, layer)
