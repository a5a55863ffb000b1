"""Report the contents of a model's files, a row per part: tensors, parameters, data types and errors."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any

import torch

from video_llama.checkpoints.completeness import check_tensors, expected_shapes, first_names, without_tied_output
from video_llama.checkpoints.files import Shape, StoredTensor, dtype_code, read_values, scan
from video_llama.checkpoints.folder import read_config, read_manifest, read_settings
from video_llama.errors import CheckpointError
from video_llama.files import sha256
from video_llama.models.configuration import VideoLlamaConfig
from video_llama.models.placement import LoadOptions, resolve_placing

PART_NAMES = {
    "model.frame_encoder.vision_model.": "ViT",
    "model.frame_encoder.": "frame Q-Former",
    "model.video_qformer.language_projection.": "video projection",
    "model.video_qformer.": "video Q-Former",
    "model.audio_qformer.language_projection.": "audio projection",
    "model.audio_qformer.": "audio Q-Former",
    "model.imagebind_audio.": "ImageBind audio",
    "model.imagebind_vision.": "ImageBind vision",
    "model.language_model.": "decoder",
    "lm_head.": "decoder",
}
"""Name prefix -> part of the model; the first match applies."""


@dataclass
class PartReport:
    """The tensors of one part of the model. The lists contain names."""

    part: str
    files: dict[str, str] = field(default_factory=dict)
    """File name -> sha256."""
    tensors: int = 0
    parameters: int = 0
    bytes: int = 0
    dtypes: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    mismatched: list[str] = field(default_factory=list)
    zero: list[str] = field(default_factory=list)
    not_finite: list[str] = field(default_factory=list)


@dataclass
class ModelReport:
    """A model's provenance, a row per part, and the reason that it cannot be loaded, or None."""

    path: str
    name: str
    notice: str
    sources: dict[str, Any]
    untrained_parts: list[str]
    parts: list[PartReport]
    problem: str | None = None
    leftovers: dict[str, dict[str, int]] = field(default_factory=dict)
    """Published file -> number of tensors that the model does not need, by the module that they belong to."""
    arithmetic: dict[str, str] = field(default_factory=dict)
    """Part -> its weights and arithmetic when the model answers on this machine's CPU, and the reason for a change."""


def inspect_model(path: Path) -> ModelReport:
    """Inspect a model folder; every tensor is read once.

    Raises CheckpointError if config, settings, manifest or weights are missing or invalid.
    """
    config, manifest = read_config(path), read_manifest(path)
    read_settings(path)
    expected = expected_shapes(config)
    stored = without_tied_output(scan(path, safetensors_only=True), expected, str(path))
    rows = part_reports(expected, stored, read_values(stored))
    report = ModelReport(
        str(path), manifest.name, manifest.notice, manifest.sources, list(manifest.untrained_parts), rows
    )
    report.arithmetic = arithmetic_here(config)
    report.problem = _problem(report, expected, stored)
    return report


def arithmetic_here(config: VideoLlamaConfig) -> dict[str, str]:
    """Return ``Placing.describe`` of a model that answers on this machine's CPU with default options."""
    stored = getattr(config, "dtype", None) or "float32"
    return resolve_placing(stored, LoadOptions(is_for_inference=True)).describe(config)


def part_reports(
    expected: Mapping[str, Shape],
    stored: Mapping[str, StoredTensor],
    values: Iterable[tuple[str, torch.Tensor]],
) -> list[PartReport]:
    """Return a row per part, from the shapes that a model needs, the stored tensors and their values, by our names."""
    parts: dict[str, PartReport] = {}
    hashes = {file: sha256(file) for file in sorted({tensor.file for tensor in stored.values()})}
    for name in [*expected, *(name for name in stored if name not in expected)]:
        part = parts.setdefault(part_of(name), PartReport(part_of(name)))
        _count(part, name, expected, stored)
        if name in stored:
            part.files[stored[name].file.name] = hashes[stored[name].file]
    for name, tensor in values:
        _check_values(parts[part_of(name)], name, tensor)
    return list(parts.values())


def part_of(name: str) -> str:
    """Return the part that a tensor belongs to; for a name that is not ours, the text before the first dot."""
    return next((part for start, part in PART_NAMES.items() if name.startswith(start)), name.partition(".")[0])


def unreadable_values(parts: Sequence[PartReport]) -> str | None:
    """Return an error message if tensors of these parts contain NaN or infinity, else None."""
    broken = [name for part in parts for name in part.not_finite]
    return (
        f"tensors with NaN or infinity ({len(broken)}): {first_names(broken)}. Copy the weights again."
        if broken
        else None
    )


def _count(part: PartReport, name: str, expected: Mapping[str, Shape], stored: Mapping[str, StoredTensor]) -> None:
    if name not in stored:
        part.missing.append(name)
        return
    if name not in expected:
        part.unexpected.append(name)
    elif stored[name].shape != expected[name]:
        part.mismatched.append(name)
    part.tensors += 1
    part.parameters += prod(stored[name].shape)
    if dtype_code(stored[name].dtype) not in part.dtypes:
        part.dtypes.append(dtype_code(stored[name].dtype))


def _check_values(part: PartReport, name: str, tensor: torch.Tensor) -> None:
    part.bytes += tensor.numel() * tensor.element_size()
    if not tensor.is_floating_point():
        return
    if not tensor.isfinite().all():
        part.not_finite.append(name)
    elif not tensor.any():
        part.zero.append(name)


def _problem(report: ModelReport, expected: Mapping[str, Shape], stored: Mapping[str, StoredTensor]) -> str | None:
    try:
        check_tensors(expected, stored, report.path)
    except CheckpointError as error:
        return str(error)
    problem = unreadable_values(report.parts)
    return problem and f"{report.path}: {problem}"
