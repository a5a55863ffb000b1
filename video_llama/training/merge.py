"""Merge the trained parts of training runs into the model folder they were trained with.

The result is a complete model folder, which loads and answers without the runs. ``video-llama merge`` is its command.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from torch import Tensor

from video_llama.checkpoints.files import scan
from video_llama.checkpoints.folder import (
    Manifest,
    read_config,
    read_model_folder,
    tokenizer_file,
    write_model_folder,
)
from video_llama.errors import CheckpointError
from video_llama.models.modeling_llama import unpack_linears
from video_llama.models.packed_linear import Quantization
from video_llama.models.placement import LoadOptions
from video_llama.models.video_llama import VideoLlamaForConditionalGeneration
from video_llama.training.checkpoint import load_trained, read_trained, trained_file
from video_llama.training.lora import add_lora, lora_of_checkpoint, merge_lora, split_lora


def merge_into_folder(
    runs: Sequence[str | Path],
    model_folder: str | Path,
    out: str | Path,
    *,
    quantization: Quantization | None = None,
    name: str | None = None,
    notice: str | None = None,
) -> Path:
    """Write a copy of a model folder that contains the trained parts of one or several runs.

    LoRA adapters are added to the decoder's weights, which keep the dtype of the folder. A part is removed from the
    manifest's ``untrained_parts`` when all its parameters were trained.

    Args:
        runs: Run folders (their newest checkpoint is used), checkpoint folders, or ``.safetensors`` files.
        model_folder: The model folder that the runs were trained with. It is not changed.
        out: The folder to write. It must not exist, or be empty.
        quantization: Round the decoder's weights to the values that a run with this ``model.quantization`` used before
            the adapters are added. The result then equals the model that was trained. Without it the adapters are added
            to weights of full precision, which differ from those that the run used.
        name: New name for the manifest (default: the name in ``model_folder``).
        notice: New notice for the manifest (default: the notice in ``model_folder``).

    Returns:
        The path of the folder that was written.

    Raises:
        CheckpointError: a run has no checkpoint or does not fit the model, two runs contain the same tensor,
            ``model_folder`` is not a model folder, or ``out`` already exists.
        MissingExtraError: a run has adapters and PEFT is not installed.
    """
    out = Path(out)
    _check_target(out)
    _check_overlap(runs)
    folder = Path(model_folder)
    base = read_model_folder(folder, LoadOptions(dtype=read_config(folder).dtype, quantization=quantization))
    unpack_linears(base.model.model.language_model, base.model.dtype)
    trained: set[str] = set()
    for run in runs:
        trained |= _merge_run(base.model, run)
    untrained = {name for name, _ in base.model.named_parameters()} - trained
    write_model_folder(
        out,
        base.model,
        tokenizer_path=tokenizer_file(folder),
        settings=base.settings,
        manifest=_merged_manifest(base.manifest, untrained, name, notice),
    )
    return out


def _check_target(out: Path) -> None:
    """Raise CheckpointError if ``out`` exists; an empty folder is accepted."""
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise CheckpointError(f"{out} already exists. Choose another output folder, or remove it first.")


def _check_overlap(runs: Sequence[str | Path]) -> None:
    """Raise CheckpointError for an empty list, a run without trained parts, or a tensor that two runs contain."""
    if not runs:
        raise CheckpointError("No run was given. Give one or more run folders to merge.")
    owners: dict[str, str | Path] = {}
    for run in runs:
        names = scan(trained_file(run))
        if shared := [name for name in names if name in owners]:
            raise CheckpointError(
                f"{owners[shared[0]]} and {run} both contain {len(shared)} of the same tensors, such as {shared[0]}. "
                "Merge only one of them, or merge one run first and the other one into the result."
            )
        owners |= dict.fromkeys(names, run)


def _merge_run(model: VideoLlamaForConditionalGeneration, run: str | Path) -> set[str]:
    """Copy the trained tensors of a run into ``model`` and merge its adapters; return the names of the former."""
    adapters, tensors = split_lora(read_trained(run))
    if tensors:
        load_trained(model, tensors, source=str(run))
    if adapters:
        _merge_adapters(model, adapters, run)
    return set(tensors)


def _merge_adapters(
    model: VideoLlamaForConditionalGeneration, adapters: dict[str, Tensor], checkpoint: str | Path
) -> None:
    add_lora(model, lora_of_checkpoint(trained_file(checkpoint).parent), seed=0)
    load_trained(model, adapters, source=str(checkpoint))
    merge_lora(model)


def _merged_manifest(manifest: Manifest, untrained: set[str], name: str | None, notice: str | None) -> Manifest:
    """Return ``manifest`` without the parts that are now trained, with a new name and notice if given."""
    parts = tuple(
        part for part in manifest.untrained_parts if any(parameter.startswith(part) for parameter in untrained)
    )
    return replace(
        manifest,
        untrained_parts=parts,
        name=manifest.name if name is None else name,
        notice=manifest.notice if notice is None else notice,
    )
