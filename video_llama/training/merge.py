"""Trained parts go into the model folder they were trained with: the result is a whole model folder again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from video_llama.checkpoints.folder import Manifest, read_config, read_model_folder, write_model_folder

if TYPE_CHECKING:
    from torch import Tensor

    from video_llama.models.modeling_llama import Quantization
    from video_llama.models.video_llama import VideoLlamaForConditionalGeneration


def merge_into_folder(
    base_folder: str | Path,
    checkpoints: Sequence[str | Path],
    target: str | Path,
    *,
    quantization: Quantization | None = None,
    **manifest_changes: Any,
) -> Path:
    """Write ``target``: the model folder ``base_folder`` with the trained parts of ``checkpoints``, later ones winning.

    Adapters are merged into the decoder's weights, which keep the folder's type. ``quantization`` first rounds these
    weights to what a run with that ``model.quantization`` saw: the result is then the model that was trained, where
    without it the adapters meet weights that are more exact than those they trained beside. A part leaves the
    manifest's ``untrained_parts`` when all its parameters were trained. ``manifest_changes`` replace its other fields
    (name, sources, notice). Raises CheckpointError for checkpoints of another model.
    """
    from video_llama.models.modeling_llama import unpack_linears
    from video_llama.training.checkpoint import load_trained, read_trained
    from video_llama.training.lora import split_lora

    base = read_model_folder(base_folder, dtype=read_config(Path(base_folder)).dtype, quantization=quantization)
    unpack_linears(base.model.model.language_model, base.model.dtype)
    trained: set[str] = set()
    for path in checkpoints:
        adapters, tensors = split_lora(read_trained(path))
        if tensors:
            load_trained(base.model, tensors, source=str(path))
        if adapters:
            _merge_adapters(base.model, adapters, path)
        trained |= set(tensors)
    names = {name for name, _ in base.model.named_parameters()}
    write_model_folder(
        target,
        base.model,
        tokenizer_path=Path(base_folder) / "tokenizer.model",
        settings=base.settings,
        manifest=_manifest(base.manifest, names - trained, manifest_changes),
    )
    return Path(target)


def _merge_adapters(
    model: VideoLlamaForConditionalGeneration, adapters: dict[str, Tensor], checkpoint: str | Path
) -> None:
    from video_llama.training.checkpoint import load_trained, trained_file
    from video_llama.training.lora import add_lora, lora_of_checkpoint, merge_lora

    add_lora(model, lora_of_checkpoint(trained_file(checkpoint).parent), seed=0)
    load_trained(model, adapters, source=str(checkpoint))
    merge_lora(model)


def _manifest(manifest: Manifest, untouched: set[str], changes: dict[str, Any]) -> Manifest:
    """The base's manifest without the parts that are trained now."""
    random = [part for part in manifest.untrained_parts if any(name.startswith(part) for name in untouched)]
    return replace(manifest, untrained_parts=tuple(random), **changes)
