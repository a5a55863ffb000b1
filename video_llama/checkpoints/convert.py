"""Convert published files to a model folder. Memory use is limited to one shard and one tensor."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from video_llama.checkpoints.assemble import Assembly, PlannedTensor, read_planned
from video_llama.checkpoints.config import ModelType
from video_llama.checkpoints.files import weight_files
from video_llama.checkpoints.folder import (
    Manifest,
    new_model_folder,
    write_rest,
)
from video_llama.checkpoints.initialization import INITIALIZABLE_PARTS, initialize
from video_llama.checkpoints.loading import plan
from video_llama.checkpoints.published_files import WeightSource, read_eval_config
from video_llama.checkpoints.safetensors_writer import MAX_SHARD_BYTES, TensorSpec, write_shards
from video_llama.errors import CheckpointError
from video_llama.files import sha256
from video_llama.log import progress
from video_llama.models.placement import as_dtype


def convert(
    source: str | Path,
    target: str | Path,
    *,
    options: Sequence[str] = (),
    model_type: ModelType | None = None,
    dtype: str | None = None,
    max_shard_bytes: int = MAX_SHARD_BYTES,
    init_seed: int | None = None,
) -> Assembly:
    """Write the model folder ``target``, atomically, from published files.

    Args:
        source: an evaluation YAML, or a folder in the published layout.
        target: the model folder; an existing model folder is replaced.
        options: overrides of the YAML ("model.ckpt=...").
        model_type: prompt style; None takes it from the YAML or the decoder's folder.
        dtype: data type of the floating-point tensors: "float32", "bfloat16" or "float16". None keeps the stored types,
            so that ``export_to_reference`` restores the files exactly.
        max_shard_bytes: largest size of a file.
        init_seed: initialize the parts of the branches that are in no file from this seed, for training. The manifest
            lists them as untrained. None requires them.

    Raises:
        ConfigError, CheckpointError: before anything is written, for an invalid YAML, for files that cannot be read,
            and for missing, unexpected or mismatched tensors.
        ValueError: unknown ``dtype``.
    """
    requested = None if dtype is None else as_dtype(dtype)
    initializable = () if init_seed is None else INITIALIZABLE_PARTS
    assembly = plan(read_eval_config(source, options), str(source), model_type, initializable)
    initialized = initialize(assembly.config, assembly.initialized, init_seed or 0)
    specs = _specs(assembly, initialized, requested)
    target = Path(target)
    with new_model_folder(target) as unfinished:
        _require_space(target, sum(spec.num_bytes for spec in specs.values()))

        def read(names: list[str]) -> Iterator[tuple[str, Tensor]]:
            return _values(assembly, initialized, specs, names)

        written = write_shards(unfinished, specs, read, max_shard_bytes)
        for _ in progress(written, "writing tensors", len(specs)):
            pass
        _write_configs(unfinished, assembly, dtype)
        made = {"made by": "video-llama convert", "dtype": dtype or "as stored"}
        manifest = Manifest(target.name, made, assembly.initialized)
        manifest.sources["files"] = source_files([report.source for report in assembly.reports])
        write_rest(
            unfinished,
            assembly.config,
            tokenizer=assembly.decoder.tokenizer,
            settings=assembly.settings,
            manifest=manifest,
        )
    return assembly


def source_files(sources: Sequence[WeightSource]) -> list[dict[str, Any]]:
    """Return the manifest's record of each file: role, name, size in bytes and sha256."""
    files = [(source, file) for source in sources for file in weight_files(source.path)]
    return [
        {
            "role": source.role,
            "source": source.path.name,
            "file": file.name,
            "bytes": file.stat().st_size,
            "sha256": sha256(file),
        }
        for source, file in progress(files, "hashing sources", len(files))
    ]


def _specs(
    assembly: Assembly, initialized: Mapping[str, Tensor], requested: torch.dtype | None
) -> dict[str, TensorSpec]:
    sources: dict[str, PlannedTensor | Tensor] = {**assembly.tensors, **initialized}
    return {
        name: TensorSpec(tuple(each.shape), requested if requested and each.dtype.is_floating_point else each.dtype)
        for name in assembly.expected
        for each in (sources[name],)
    }


def _values(
    assembly: Assembly, initialized: Mapping[str, Tensor], specs: Mapping[str, TensorSpec], names: list[str]
) -> Iterator[tuple[str, Tensor]]:
    stored = read_planned(assembly.tensors[name] for name in names if name not in initialized)
    for name, tensor in chain(stored, ((name, initialized[name]) for name in names if name in initialized)):
        yield name, tensor.to(specs[name].dtype)


def _write_configs(folder: Path, assembly: Assembly, dtype: str | None) -> None:
    config = assembly.config
    config.architectures = ["VideoLlamaForConditionalGeneration"]
    if dtype is not None:
        config.dtype = dtype
    config.save_pretrained(folder)


def _require_space(target: Path, num_bytes: int) -> None:
    existing = next(parent for parent in target.absolute().parents if parent.is_dir())
    free = shutil.disk_usage(existing).free
    if free < num_bytes:
        raise CheckpointError(
            f"{target} needs {num_bytes / 1e9:.1f} GB, but its disk has {free / 1e9:.1f} GB free. Free some space."
        )
