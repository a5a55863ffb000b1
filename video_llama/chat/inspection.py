"""What is in a media file, or in a model folder, as plain dicts; nothing is answered and no model is built."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from video_llama.chat.media import MediaOptions, media_kind, read_medium
from video_llama.chat.record import describe_medium
from video_llama.checkpoints.folder import ProcessorSettings, read_config, read_manifest, read_settings
from video_llama.checkpoints.tensors import Shape, StoredTensor, check_tensors, expected_shapes, stored_tensors
from video_llama.errors import CheckpointError, MediaError
from video_llama.files import sha256
from video_llama.processors.sources import as_media

if TYPE_CHECKING:
    import torch

MAX_FRAMES = 32
"""The reference's ``max_frame_pos``: what a file would give to a model of its settings."""


def inspect_media(path: Path) -> dict[str, Any]:
    """A file's streams, and what the reference's settings would take from it.

    A sound track that cannot be read is told under ``sound_error``. Raises MediaError for everything else.
    """
    kind = media_kind(path)
    report: dict[str, Any] = {"path": str(path), "kind": kind}
    if kind in ("video", "audio"):
        report |= _container(path)
    limits: dict[str, Any] = {"max_frames": MAX_FRAMES, "can_hear": True, "kind": kind}
    settings = ProcessorSettings()
    try:
        medium = read_medium(path, settings, MediaOptions(), **limits)
    except MediaError as error:
        if kind != "video":
            raise
        medium = read_medium(path, settings, MediaOptions(no_audio=True), **limits)
        report["sound_error"] = str(error)
    return {**report, "sampled": describe_medium(medium)}


def _container(path: Path) -> dict[str, Any]:
    media = as_media(path)
    with media.open() as container:
        duration = None if container.duration is None else container.duration / 1_000_000
        streams = [_stream(stream) for stream in container.streams]
        rotation = _rotation(container)
        report = {"format": container.format.name, "duration": duration, "bytes": os.stat(path).st_size}
    return {**report, "rotation": rotation, "streams": streams}


def _stream(stream: Any) -> dict[str, Any]:
    codec = stream.codec_context
    report: dict[str, Any] = {"type": stream.type, "codec": None if codec is None else codec.name}
    seconds = None if stream.duration is None else float(stream.duration * stream.time_base)
    if stream.type == "video":
        rate = stream.average_rate
        fps = None if rate is None else float(rate)
        report |= {"width": codec.width, "height": codec.height, "fps": fps, "frames": stream.frames or None}
    elif stream.type == "audio" and codec is not None:
        report |= {"sampling_rate": codec.sample_rate, "channels": codec.channels, "layout": codec.layout.name}
    return {**report, "duration": seconds}


def _rotation(container: Any) -> int | None:
    """Degrees counterclockwise that the first frame is to be turned by; None where there is no frame."""
    import av

    try:
        first = next(container.decode(video=0), None) if container.streams.video else None
    except av.error.FFmpegError:
        return None
    return None if first is None else int(first.rotation)


PARTS = {
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
    expected, stored = expected_shapes(config), stored_tensors(path)
    rows = part_reports(expected, stored, _values(stored))
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
    return next((part for start, part in PARTS.items() if name.startswith(start)), name.partition(".")[0])


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
    if stored[name].dtype not in part.dtypes:
        part.dtypes.append(stored[name].dtype)


def _values(stored: Mapping[str, StoredTensor]) -> Iterator[tuple[str, torch.Tensor]]:
    """Every tensor, one at a time."""
    from safetensors import safe_open

    with ExitStack() as stack:
        files = {tensor.file for tensor in stored.values()}
        opened = {file: stack.enter_context(safe_open(file, framework="pt")) for file in files}
        for name, tensor in stored.items():
            yield name, opened[tensor.file].get_tensor(name)


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
