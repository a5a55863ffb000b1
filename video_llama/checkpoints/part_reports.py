"""What a model's files hold, a row per part: tensors, parameters, types, and what is wrong with them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any

import torch

from video_llama.checkpoints.completeness import check_tensors, expected_shapes
from video_llama.checkpoints.files import Shape, StoredTensor, dtype_code, read_values, scan
from video_llama.checkpoints.folder import read_config, read_manifest, read_settings
from video_llama.errors import CheckpointError
from video_llama.files import sha256

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
"""Beginnings of names -> the part that such tensors belong to; the first that fits counts."""


@dataclass
class PartReport:
    """The tensors of one part of the model; the lists hold names."""

    part: str
    files: dict[str, str] = field(default_factory=dict)
    """The files that they lie in -> sha256."""
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
    """A model folder: its manifest, a row per part, and the first thing that keeps it from answering, if any."""

    path: str
    name: str
    notice: str
    sources: dict[str, Any]
    untrained_parts: list[str]
    parts: list[PartReport]
    problem: str | None = None
    leftovers: dict[str, dict[str, int]] = field(default_factory=dict)
    """Of published files: what they hold besides, which nobody needs; counted by what it belongs to."""


def inspect_model(path: Path) -> ModelReport:
    """Read every tensor of a folder once. Raises CheckpointError where there is no config, manifest or weights file."""
    config, manifest = read_config(path), read_manifest(path)
    read_settings(path)
    expected, stored = expected_shapes(config), scan(path, safetensors_only=True)
    rows = part_reports(expected, stored, read_values(stored))
    report = ModelReport(
        str(path), manifest.name, manifest.notice, manifest.sources, list(manifest.untrained_parts), rows
    )
    report.problem = _problem(report, expected, stored)
    return report


def part_reports(
    expected: Mapping[str, Shape],
    stored: Mapping[str, StoredTensor],
    values: Iterable[tuple[str, torch.Tensor]],
) -> list[PartReport]:
    """A row per part for tensors by our names: those that a model needs, those that there are, and their values."""
    parts: dict[str, PartReport] = {}
    hashes = {file: sha256(file) for file in sorted({tensor.file for tensor in stored.values()})}
    for name in [*expected, *(name for name in stored if name not in expected)]:
        part = parts.setdefault(part_of(name), PartReport(part_of(name)))
        _count(part, name, expected, stored)
        if name in stored:
            part.files[stored[name].file.name] = hashes[stored[name].file]
    for name, tensor in values:
        _look_at(parts[part_of(name)], name, tensor)
    return list(parts.values())


def part_of(name: str) -> str:
    """The part that a tensor belongs to; of a name that is not ours, what stands before its first dot."""
    return next((part for start, part in PART_NAMES.items() if name.startswith(start)), name.partition(".")[0])


def unreadable_values(parts: Sequence[PartReport]) -> str | None:
    """What keeps a model with these parts from answering, if its tensors hold NaN or infinity."""
    broken = [name for part in parts for name in part.not_finite]
    return f"{len(broken)} tensors hold NaN or infinity, {broken[0]} first. Copy the weights again." if broken else None


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


def _look_at(part: PartReport, name: str, tensor: torch.Tensor) -> None:
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
