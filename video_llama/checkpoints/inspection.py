"""Inspect published files before conversion, part by part; check that lists of the reference's names can be mapped."""

from __future__ import annotations

import gzip
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from video_llama.checkpoints.architecture import infer_config
from video_llama.checkpoints.assemble import (
    Assembly,
    PlannedTensor,
    SourceReport,
    assemble,
    check_assembly,
    collect,
    is_needed,
    owner_of,
    read_planned,
)
from video_llama.checkpoints.completeness import expected_shapes
from video_llama.checkpoints.config import EvalConfig, ModelType
from video_llama.checkpoints.files import StoredTensor, opened, scan
from video_llama.checkpoints.keys import IGNORED, convert_state_dict, revert_state_dict, to_ours, to_reference
from video_llama.checkpoints.part_reports import (
    PART_NAMES,
    ModelReport,
    PartReport,
    arithmetic_here,
    part_reports,
    unreadable_values,
)
from video_llama.checkpoints.published_files import ROLES, Role, absent_paths, find_sources, read_eval_config
from video_llama.errors import CheckpointError, DataError
from video_llama.files import parse_json
from video_llama.models.configuration import VideoLlamaConfig

ROLE_PREFIXES = {"modality_": "ImageBind", "blocks.": "ViT", "patch_embed.": "ViT", "model.layers.": "decoder"}
"""Name prefix in a file without the reference's prefixes -> role of the file. A file with complete names has BLIP-2's
role, which allows the most unused tensors."""


def inspect_sources(path: str | Path, options: Sequence[str] = (), model_type: ModelType | None = None) -> ModelReport:
    """Inspect the model that an evaluation YAML, or a folder in the published layout, describes.

    Every tensor is read once. ``problem`` of the report is the reason that the model cannot be loaded, such as a path
    that does not exist; parts without files then have rows without files. Raises ConfigError and CheckpointError if
    the files are not sufficient to infer the model's configuration.
    """
    config = read_eval_config(path, options)
    absent = absent_paths(config)
    if absent:
        return _inspect_present(path, config, absent)
    assembly = assemble(config, str(path), model_type)
    report = _report(path, assembly.tensors, assembly.reports, assembly.expected)
    report.arithmetic = arithmetic_here(assembly.config)
    report.problem = _problem(assembly, report)
    return report


def _inspect_present(path: str | Path, config: EvalConfig, absent: Mapping[str, str]) -> ModelReport:
    """Inspect the files that exist. Every other part of the model has a row without files."""
    present = config.model_copy(update={"model": config.model.model_copy(update=dict.fromkeys(absent, ""))})
    tensors, reports = collect(find_sources(present, str(path)), present)
    report = _report(path, tensors, reports, {name: planned.shape for name, planned in tensors.items()})
    found = {row.part for row in report.parts}
    needed = {part for prefix, part in PART_NAMES.items() if is_needed(prefix, config)} - found
    report.parts += [PartReport(part) for part in dict.fromkeys(PART_NAMES.values()) if part in needed]
    listed = ", ".join(f"model.{key} ({value})" for key, value in absent.items())
    report.problem = (
        f"{path}: {listed} {'does' if len(absent) == 1 else 'do'} not exist. Correct the YAML, or override the path: "
        f"--set model.{next(iter(absent))}=/data/..."
    )
    return report


def _report(
    path: str | Path,
    tensors: Mapping[str, PlannedTensor],
    reports: Sequence[SourceReport],
    expected: Mapping[str, tuple[int, ...]],
) -> ModelReport:
    stored = {
        name: StoredTensor(next(iter(planned.parts.values())).file, name, planned.shape, planned.dtype)
        for name, planned in tensors.items()
    }
    rows = part_reports(expected, stored, read_planned(tensors.values()))
    rows += [
        PartReport(f"unknown ({each.source.role})", unexpected=each.unexpected) for each in reports if each.unexpected
    ]
    sources = {each.source.role: str(each.source.path) for each in reports}
    leftovers = {each.source.path.name: _not_needed(each) for each in reports}
    return ModelReport(str(path), Path(path).stem, "", sources, [], rows, leftovers=leftovers)


def inspect_file(path: Path) -> ModelReport:
    """Inspect one weights file. Names that do not belong to the model are unexpected."""
    stored = scan(path)
    role, is_ours = _role_of(list(stored))
    with opened(path) as tensors:
        names = {role.name(name): name for name in stored}
        used = {theirs: tensors[own] for theirs, own in names.items() if not role.is_leftover(theirs)}
        ours, ignored, unknown = (used, [], []) if is_ours else convert_state_dict(used)
        values = ours | {names[name]: used[name] for name in unknown}
        described = {
            name: StoredTensor(path, name, tuple(tensor.shape), tensor.dtype) for name, tensor in values.items()
        }
        rows = part_reports(_shapes(ours), described, values.items())
    leftovers = Counter(map(owner_of, [*ignored, *(names.keys() - used.keys())]))
    report = ModelReport(str(path), path.name, "", {}, [], rows, leftovers={path.name: dict(leftovers)})
    problem = unreadable_values(rows)
    report.problem = problem and f"{path}: {problem}"
    return report


@dataclass
class NamesReport:
    """The result of mapping a list of the reference's names and shapes to ours and back."""

    name: str
    num_keys: int
    num_ours: int = 0
    num_ignored: int = 0
    left_over: list[str] = field(default_factory=list)
    """A description of each name that cannot be mapped, or has the wrong shape."""


def inspect_names(path: Path) -> list[NamesReport]:
    """Map every name and shape of a file such as golden's full_keys.json (or .json.gz) to ours and back.

    The list of a model must be exactly one complete model of ours; the names of a training recipe must map back to
    themselves. Raises DataError for a file of another form.
    """
    content = _read_names(path)
    try:
        reports = [_model_names(name, model) for name, model in content["models"].items()]
        for recipe, sizes in content.get("train_configs", {}).items():
            reports += [_recipe_names(f"{recipe}, {size}", keys) for size, keys in sizes.items()]
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise DataError(
            f'{path} is not a list of names: expected "models", each with "llama_config" and "keys" (name: [shape, '
            f"type, kind]) ({error!r}). Give a file such as golden's full_keys.json."
        ) from error
    return reports


def _not_needed(report: SourceReport) -> dict[str, int]:
    replaced = {"replaced by a later file": len(report.replaced)} if report.replaced else {}
    return dict(report.leftovers) | replaced


def _problem(assembly: Assembly, report: ModelReport) -> str | None:
    try:
        check_assembly(assembly, report.path)
    except CheckpointError as error:
        return str(error)
    problem = unreadable_values(report.parts)
    return problem and f"{report.path}: {problem}"


def _role_of(names: Sequence[str]) -> tuple[Role, bool]:
    """Return the role that the names of a file indicate, and whether they are our names."""
    if any(name.startswith(tuple(PART_NAMES)) and not name.startswith("lm_head.") for name in names):
        return Role(), True
    named = next((role for start, role in ROLE_PREFIXES.items() if any(name.startswith(start) for name in names)), None)
    return ROLES[named or "BLIP-2"], False


def _read_names(path: Path) -> dict[str, Any]:
    try:
        data = path.read_bytes()
        content = parse_json((gzip.decompress(data) if path.suffix == ".gz" else data).decode("utf-8-sig"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path} is not valid JSON ({error}). Give a file such as golden's full_keys.json.") from error
    if not isinstance(content, dict):
        raise DataError(f"{path} contains a {type(content).__name__}. Give a file such as golden's full_keys.json.")
    return content


def _model_names(name: str, model: Mapping[str, Any]) -> NamesReport:
    theirs = _on_meta(model["keys"])
    ours, ignored, unknown = convert_state_dict(theirs)
    report = NamesReport(f"model {name}", len(theirs), len(ours), len(ignored))
    report.left_over += [f"{key}: unknown" for key in unknown]
    report.left_over += [
        f"{key}: ignored, but not one of the known unused tensors" for key in ignored if not IGNORED.match(key)
    ]
    try:
        config = infer_config(_shapes(ours), model["llama_config"], unknown_heads=1)
    except CheckpointError as error:
        report.left_over.append(str(error))
        return report
    report.left_over += _misfits(ours, config)
    report.left_over += _changed(theirs, revert_state_dict(ours), {*ignored, *unknown})
    return report


def _misfits(ours: Mapping[str, Tensor], config: VideoLlamaConfig) -> Iterator[str]:
    expected, found = expected_shapes(config), _shapes(ours)
    for name in expected.keys() | found.keys():
        if expected.get(name) != found.get(name):
            yield f"{name}: {found.get(name, 'missing')}; the model has {expected.get(name, 'no such tensor')}"


def _changed(before: Mapping[str, Tensor], after: Mapping[str, Tensor], left_out: set[str]) -> Iterator[str]:
    """Yield the differences between the original names and shapes and those mapped back."""
    for name in (before.keys() - left_out) | after.keys():
        old, new = (tensors[name].shape if name in tensors else None for tensors in (before, after))
        if old != new:
            yield f"{name}: mapped back to shape {new}, was {old}"


def _recipe_names(name: str, recipe: Mapping[str, Any]) -> NamesReport:
    trained, saved = list(recipe["trainable_keys"]), list(recipe["saved_keys"])
    report = NamesReport(f"recipe {name}", len({*trained, *saved}))
    for key in dict.fromkeys([*trained, *saved]):
        ours = to_ours(key)
        if key not in trained and IGNORED.match(key):
            report.num_ignored += 1
        elif ours is not None and to_reference(ours) == key:
            report.num_ours += 1
        else:
            report.left_over.append(f"{key}: mapped to {ours}, which does not map back")
    return report


def _on_meta(keys: Mapping[str, Any]) -> dict[str, Tensor]:
    return {name: torch.empty(shape, dtype=_dtype(dtype), device="meta") for name, (shape, dtype, *_) in keys.items()}


def _dtype(name: str) -> torch.dtype:
    dtype = getattr(torch, name, None)
    if not isinstance(dtype, torch.dtype):
        raise TypeError(f"{name} is not a torch data type")
    return dtype


def _shapes(tensors: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}
