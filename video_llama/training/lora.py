"""Adapters on the decoder's linear layers, through PEFT: put in before training, merged into the weights after it."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from video_llama.errors import CheckpointError, ConfigError, MissingExtraError

if TYPE_CHECKING:
    from torch import Tensor, nn

    from video_llama.models.video_llama import VideoLlamaForConditionalGeneration
    from video_llama.training.config import LoraConfig

LORA_MARK = ".lora_"
"""Part of the name of every parameter of an adapter."""


def split_lora(tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """(adapters, everything else) of a checkpoint."""
    adapters = {name: tensor for name, tensor in tensors.items() if LORA_MARK in name}
    return adapters, {name: tensor for name, tensor in tensors.items() if name not in adapters}


def add_lora(model: VideoLlamaForConditionalGeneration, config: LoraConfig, seed: int) -> None:
    """Put fresh adapters, float32, into the decoder: the model's output stays what it was until they are trained.

    A quantised decoder's layers get the same ones, by the same names. Raises ConfigError where no layer of the decoder
    has such a name, MissingExtraError without PEFT.
    """
    import torch

    try:
        from peft import LoraConfig as PeftConfig
        from peft import inject_adapter_in_model
        from peft.tuners.lora import Linear as AdaptedLinear
    except ModuleNotFoundError as error:
        raise MissingExtraError("peft", "train") from error
    from video_llama.models.packed_linear import PackedLinear

    decoder = model.model.language_model
    kinds = (torch.nn.Linear, PackedLinear)
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
            warnings.filterwarnings("ignore", "Unsupported layer type")  # what was just registered
            inject_adapter_in_model(settings, decoder)
    for name, parameter in decoder.named_parameters():
        if LORA_MARK in name:
            parameter.data = parameter.data.float()


def merge_lora(model: VideoLlamaForConditionalGeneration) -> None:
    """Add every adapter to its layer's weight and take it out: the same function, without PEFT."""
    from peft.tuners.lora import LoraLayer

    decoder = model.model.language_model
    for name, layer in list(decoder.named_modules()):
        if isinstance(layer, LoraLayer):
            layer.merge(safe_merge=True)
            _replace(decoder, name, layer.get_base_layer())
    if hasattr(decoder, "peft_config"):
        del decoder.peft_config


def lora_of_checkpoint(folder: Path) -> LoraConfig:
    """The adapters' settings, from the ``config.yaml`` beside the trained parts. CheckpointError where it has none."""
    from video_llama.config import load_yaml, parse_config
    from video_llama.training.config import LoraConfig

    path = folder / "config.yaml"
    settings = load_yaml(path).get("model", {}).get("lora") if path.is_file() else None
    if settings is None:
        raise CheckpointError(f"{folder}: the adapters' settings (model.lora) are not in {path}. Give the checkpoint.")
    return parse_config(LoraConfig, settings, source=str(path))


def _replace(root: nn.Module, name: str, layer: nn.Module) -> None:
    parent, _, last = name.rpartition(".")
    setattr(root.get_submodule(parent), last, layer)
