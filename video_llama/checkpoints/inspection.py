"""What published files hold, part by part, before anything is converted; and whether names are ones that we read."""

from __future__ import annotations

import gzip
import json
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
    Piece,
    SourceReport,
    assemble,
    check_assembly,
    collect,
    is_wanted,
    owner_of,
    read_pieces,
)
from video_llama.checkpoints.completeness import expected_shapes
from video_llama.checkpoints.config import EvalConfig, ModelType
from video_llama.checkpoints.files import StoredTensor, opened, scan
from video_llama.checkpoints.keys import IGNORED, convert_state_dict, revert_state_dict, to_ours, to_reference
from video_llama.checkpoints.part_reports import PART_NAMES, ModelReport, PartReport, part_reports, unreadable_values
from video_llama.checkpoints.published_files import ROLES, Role, absent_paths, find_sources, read_eval_config
from video_llama.errors import CheckpointError, DataError
from video_llama.models.configuration import VideoLlamaConfig

ROLE_SIGNS = {"modality_": "ImageBind", "blocks.": "ViT", "patch_embed.": "ViT", "model.layers.": "decoder"}
"""Beginnings of names in a file that leaves the reference's prefix out -> its role. Of files with whole names, BLIP-2's
holds the most that is not needed."""


def inspect_sources(path: str | Path, options: Sequence[str] = (), model_type: ModelType | None = None) -> ModelReport:
    """A row per part of the model that an evaluation YAML, or a folder in the published layout, describes.

    Every tensor is read once. What keeps it from answering is the report's ``problem``, such as paths that are not
    there; the parts that no file gives then have rows without files. Raises ConfigError and CheckpointError where there
    is too little to tell what model it is.
    """
    config = read_eval_config(path, options)
    absent = absent_paths(config)
    if absent:
        return _inspect_present(path, config, absent)
    assembly = assemble(config, str(path), model_type)
    report = _report(path, assembly.pieces, assembly.reports, assembly.expected)
    report.problem = _problem(assembly, report)
    return report


def _inspect_present(path: str | Path, config: EvalConfig, absent: Mapping[str, str]) -> ModelReport:
    """A row per part that the files hold which are there, and one without a file for every other part."""
    present = config.model_copy(update={"model": config.model.model_copy(update=dict.fromkeys(absent, ""))})
    pieces, reports = collect(find_sources(present, str(path)), present)
    report = _report(path, pieces, reports, {name: piece.shape for name, piece in pieces.items()})
    given = {row.part for row in report.parts}
    needed = {part for prefix, part in PART_NAMES.items() if is_wanted(prefix, config)} - given
    report.parts += [PartReport(part) for part in dict.fromkeys(PART_NAMES.values()) if part in needed]
    listed = ", ".join(f"model.{key} ({value})" for key, value in absent.items())
    report.problem = (
        f"{path}: {listed} {'is' if len(absent) == 1 else 'are'} not there. Put your own path there, or override it: "
        f"--set model.{next(iter(absent))}=/data/..."
    )
    return report


def _report(
    path: str | Path,
    pieces: Mapping[str, Piece],
    reports: Sequence[SourceReport],
    expected: Mapping[str, tuple[int, ...]],
) -> ModelReport:
    stored = {
        name: StoredTensor(next(iter(piece.parts.values())).file, name, piece.shape, piece.dtype)
        for name, piece in pieces.items()
    }
    rows = part_reports(expected, stored, read_pieces(pieces.values()))
    rows += [
        PartReport(f"none, of {each.source.role}", unexpected=each.unexpected) for each in reports if each.unexpected
    ]
    sources = {each.source.role: str(each.source.path) for each in reports}
    leftovers = {each.source.path.name: _not_needed(each) for each in reports}
    return ModelReport(str(path), Path(path).stem, "", sources, [], rows, leftovers=leftovers)


def inspect_file(path: Path) -> ModelReport:
    """A row per part that one weights file holds; names that are no part of the model are unexpected."""
    stored = scan(path)
    role, is_ours = _role_of(list(stored))
    with opened(path) as tensors:
        names = {role.name(name): name for name in stored}
        held = {theirs: tensors[own] for theirs, own in names.items() if not role.is_leftover(theirs)}
        ours, ignored, unknown = (held, [], []) if is_ours else convert_state_dict(held)
        values = ours | {names[name]: held[name] for name in unknown}
        known = {name: tuple(tensor.shape) for name, tensor in ours.items()}
        described = {
            name: StoredTensor(path, name, tuple(tensor.shape), tensor.dtype) for name, tensor in values.items()
        }
        rows = part_reports(known, described, values.items())
    leftovers = Counter(map(owner_of, [*ignored, *(names.keys() - held.keys())]))
    report = ModelReport(str(path), path.name, "", {}, [], rows, leftovers={path.name: dict(leftovers)})
    problem = unreadable_values(rows)
    report.problem = problem and f"{path}: {problem}"
    return report


@dataclass
class NamesReport:
    """How a list of the reference's names and shapes fits: ``left_over`` says of each misfit what it is."""

    name: str
    num_keys: int
    num_ours: int = 0
    num_ignored: int = 0
    left_over: list[str] = field(default_factory=list)


def inspect_names(path: Path) -> list[NamesReport]:
    """Map every name and shape of a file like golden's full_keys.json (or .json.gz) to ours and back.

    A model's list has to be one whole model of ours, a recipe's to be names that come back the same. Raises DataError
    for a file of another form.
    """
    content = _read_names(path)
    try:
        reports = [_model_names(name, model) for name, model in content["models"].items()]
        for recipe, sizes in content.get("train_configs", {}).items():
            reports += [_recipe_names(f"{recipe}, {size}", keys) for size, keys in sizes.items()]
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise DataError(
            f'{path} lacks "models", each with "llama_config" and "keys" (name: [shape, type, kind]), or has others '
            f"where they belong ({error!r}). Give a file like golden's full_keys.json."
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
    """The role that a file's names speak for, and whether they are ours already."""
    if any(name.startswith(tuple(PART_NAMES)) and not name.startswith("lm_head.") for name in names):
        return Role(), True
    named = next((role for start, role in ROLE_SIGNS.items() if any(name.startswith(start) for name in names)), None)
    return ROLES[named or "BLIP-2"], False


def _read_names(path: Path) -> dict[str, Any]:
    try:
        data = path.read_bytes()
        content = json.loads(gzip.decompress(data) if path.suffix == ".gz" else data)
    except (OSError, ValueError) as error:
        raise DataError(f"{path} is not readable JSON ({error}). Give a file like golden's full_keys.json.") from error
    if not isinstance(content, dict):
        raise DataError(f"{path} holds a {type(content).__name__}. Give a file like golden's full_keys.json.")
    return content


def _model_names(name: str, model: Mapping[str, Any]) -> NamesReport:
    theirs = _on_meta(model["keys"])
    ours, ignored, unknown = convert_state_dict(theirs)
    report = NamesReport(f"model {name}", len(theirs), len(ours), len(ignored))
    report.left_over += [f"{key}: unknown" for key in unknown]
    report.left_over += [f"{key}: ignored, and no part that is known" for key in ignored if not IGNORED.match(key)]
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
            yield f"{name}: {found.get(name, 'missing')}, and the model has {expected.get(name, 'no place for it')}"


def _changed(before: Mapping[str, Tensor], after: Mapping[str, Tensor], left_out: set[str]) -> Iterator[str]:
    """What did not come back as it was."""
    for name in (before.keys() - left_out) | after.keys():
        old, new = (tensors[name].shape if name in tensors else None for tensors in (before, after))
        if old != new:
            yield f"{name}: came back as {new}, was {old}"


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
            report.left_over.append(f"{key}: becomes {ours} and does not come back")
    return report


def _on_meta(keys: Mapping[str, Any]) -> dict[str, Tensor]:
    return {name: torch.empty(shape, dtype=_dtype(dtype), device="meta") for name, (shape, dtype, *_) in keys.items()}


def _dtype(name: str) -> torch.dtype:
    dtype = getattr(torch, name, None)
    if not isinstance(dtype, torch.dtype):
        raise TypeError(f"{name} is no type of torch's")
    return dtype


def _shapes(tensors: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}
