"""Trained parts go into the model folder they were trained with: the result is a whole model folder again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from video_llama.chat.folder import Manifest, read_model_folder, write_model_folder


def merge_into_folder(
    base_folder: str | Path,
    checkpoints: Sequence[str | Path],
    target: str | Path,
    **manifest_changes: Any,
) -> Path:
    """Write ``target``: the model folder ``base_folder`` with the trained parts of ``checkpoints``, later ones winning.

    A part leaves the manifest's ``untrained_parts`` when all its parameters were trained. ``manifest_changes`` replace
    its other fields (name, sources, notice). Raises CheckpointError for checkpoints of another model.
    """
    from video_llama.training.checkpoint import load_trained, read_trained

    base = read_model_folder(base_folder)
    trained: set[str] = set()
    for path in checkpoints:
        tensors = read_trained(path)
        load_trained(base.model, tensors, source=str(path))
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


def _manifest(manifest: Manifest, untouched: set[str], changes: dict[str, Any]) -> Manifest:
    """The base's manifest without the parts that are trained now."""
    random = [part for part in manifest.untrained_parts if any(name.startswith(part) for name in untouched)]
    return replace(manifest, untrained_parts=tuple(random), **changes)
