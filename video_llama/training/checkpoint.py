"""Checkpoints: the trained parameters and the training state, written atomically.

```
checkpoints/step_000500/
  trained.safetensors   the trained parameters, by name
  optimizer.pt          the state of AdamW
  state.json            {"step", "world_size", "batch_size", "scaler", "left_out", "rows"}
  config.yaml           the resolved settings
  checkpoint_N.pth      weights and state in the reference's format, with run.save_reference_pth
  *.sha256              the checksum of each file, verified when it is read
```
Nothing else is needed to resume: the order of the data, augmentation and dropout depend only on the seed and the step.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import TypeAdapter
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from video_llama.checkpoints.files import read_pickle, without_wrappers
from video_llama.checkpoints.place_rows import PLACE_TABLES, fit_table
from video_llama.errors import CheckpointError
from video_llama.files import is_damaged, new_folder, read_json, write_checksum
from video_llama.training.parallel import full_tensor, load_optimizer_state, shard_like
from video_llama.training.reference_checkpoint import reference_checkpoint, reference_file

TRAINED_FILE = "trained.safetensors"
OPTIMIZER_FILE = "optimizer.pt"
TRAINING_STATE_FILE = "state.json"
RUN_CONFIG_FILE = "config.yaml"
BEST_FOLDER = "best"
VALID_STATE_FILE = "valid.json"
STEP_FOLDER = re.compile(r"step_([0-9]+)")

BAD_STATES = (OSError, ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)
"""Exceptions for a training state that is missing, damaged or of another model."""


@dataclass(frozen=True)
class TrainingState:
    """The progress of a run: number of completed steps, number of processes, and rows per batch over all processes."""

    step: int
    world_size: int
    batch_size: int
    scaler: dict[str, Any] | None = None
    """State of the gradient scaler for fp16."""
    left_out: dict[str, dict[str, float]] | None = None
    """Numbers of drawn and of unreadable samples of each data set with ``on_bad_media: skip``."""
    rows: dict[str, str] | None = None
    """A hash of the rows of each data set. None in checkpoints of earlier versions."""


def trained_tensors(model: nn.Module, *, keeps: bool = True) -> dict[str, Tensor]:
    """Return the trained parameters by name, unsharded and on the CPU. Collective: every process must call it.

    With ``keeps=False`` the result is empty. Processes that do not write a checkpoint use it to save memory.
    """
    tensors: dict[str, Tensor] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            tensor = full_tensor(parameter.detach())
            if keeps:
                tensors[name] = tensor.cpu().contiguous()
    return tensors


def save_checkpoint(
    run_folder: Path,
    tensors: Mapping[str, Tensor],
    optimizer_state: Mapping[str, Any],
    state: TrainingState,
    config_text: str,
    *,
    keep_last: int,
    reference_epoch: int | None = None,
) -> Path:
    """Write checkpoints/step_N, then delete all but the newest ``keep_last`` checkpoints.

    ``tensors`` are ``trained_tensors(model)``. With ``reference_epoch``, the file of this epoch in the reference's
    format is written too. Raises CheckpointError on failure; existing checkpoints are kept.
    """
    folder = run_folder / "checkpoints" / f"step_{state.step:06d}"
    with _new_checkpoint(folder) as unfinished:
        _write_weights(unfinished, tensors, config_text)
        torch.save(optimizer_state, unfinished / OPTIMIZER_FILE)
        (unfinished / TRAINING_STATE_FILE).write_text(json.dumps(asdict(state)), encoding="utf-8")
        if reference_epoch is not None:
            content = reference_checkpoint(tensors, optimizer_state, state.scaler, config_text, reference_epoch)
            torch.save(content, unfinished / reference_file(reference_epoch))
        _write_checksums(unfinished)
    for old in checkpoints(run_folder)[:-keep_last]:
        if not old.is_symlink():
            shutil.rmtree(old)
    return folder


def save_best(run_folder: Path, tensors: Mapping[str, Tensor], config_text: str, row: Mapping[str, float]) -> None:
    """Write the trained parameters and the validation metrics ``row`` to best/. Raises CheckpointError on failure."""
    with _new_checkpoint(run_folder / BEST_FOLDER) as unfinished:
        _write_weights(unfinished, tensors, config_text)
        (unfinished / VALID_STATE_FILE).write_text(json.dumps(row), encoding="utf-8")
        _write_checksums(unfinished)


def best_loss(run_folder: Path) -> float:
    """Return the lowest validation loss of a run, or infinity without one. Raises CheckpointError if unreadable."""
    path = run_folder / BEST_FOLDER / VALID_STATE_FILE
    try:
        check_intact(path)
        return float(read_json(path)["loss"])
    except FileNotFoundError:
        return float("inf")
    except BAD_STATES as error:
        raise CheckpointError(
            f"{path} cannot be read ({error}). Delete the folder; it will be written again."
        ) from error


def _write_weights(folder: Path, tensors: Mapping[str, Tensor], config_text: str) -> None:
    save_file(dict(tensors), folder / TRAINED_FILE)
    (folder / RUN_CONFIG_FILE).write_text(config_text, encoding="utf-8")


def _write_checksums(folder: Path) -> None:
    for file in sorted(folder.iterdir()):
        write_checksum(file)


def check_intact(file: Path) -> None:
    """Raise CheckpointError if a file differs from the checksum next to it. Raises OSError if it cannot be read."""
    if is_damaged(file):
        raise CheckpointError(
            f"{file} is damaged: it differs from its checksum ({file.name}.sha256). Copy it again, or use an earlier "
            "checkpoint."
        )


@contextmanager
def _new_checkpoint(folder: Path) -> Iterator[Path]:
    """Yield a temporary folder that replaces ``folder`` when the block ends; errors become CheckpointErrors."""
    for leftover in folder.parent.glob(f".{folder.name}.*.part"):  # left by a run that was killed during a write
        shutil.rmtree(leftover, ignore_errors=True)
    try:
        with new_folder(folder, sync=True) as unfinished:
            yield unfinished
    except (OSError, RuntimeError, SafetensorError) as error:
        raise CheckpointError(
            f"{folder} cannot be written: {error}. Earlier checkpoints are kept. Free disk space and resume."
        ) from error


def checkpoints(run_folder: Path) -> list[Path]:
    """Return the complete checkpoints of a run, newest last. Other files and folders are ignored."""
    found = [(STEP_FOLDER.fullmatch(path.name), path) for path in (run_folder / "checkpoints").glob("step_*")]
    steps = [(int(match.group(1)), path) for match, path in found if match is not None and path.is_dir()]
    return [path for _, path in sorted(steps)]


def newest_checkpoint(run_folder: Path) -> Path | None:
    """Return the newest complete checkpoint of a run, or None."""
    return next(iter(reversed(checkpoints(run_folder))), None)


def trained_file(path: str | Path) -> Path:
    """Return the file that :func:`read_trained` reads. Raises CheckpointError if there is none."""
    path = Path(path)
    file = path
    if path.is_dir():
        file = (path if (path / TRAINED_FILE).is_file() else newest_checkpoint(path) or path) / TRAINED_FILE
    if not file.is_file():
        raise CheckpointError(
            f"{path} has no trained parameters. Give a .safetensors file, a checkpoint folder or a run folder."
        )
    return file


def read_trained(path: str | Path) -> dict[str, Tensor]:
    """Read the trained parameters of a .safetensors file, a checkpoint folder, or a run folder (newest checkpoint).

    Raises CheckpointError if there are none or they are unreadable.
    """
    file = trained_file(path)
    try:
        check_intact(file)
        return {without_wrappers(name): tensor for name, tensor in load_file(file).items()}
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            f"{file} cannot be read ({error}). Copy it again, or use an earlier checkpoint."
        ) from error


def load_trained(model: nn.Module, tensors: Mapping[str, Tensor], *, source: str) -> None:
    """Copy trained parameters into a model. Raises CheckpointError for unknown names and wrong shapes.

    The tables of tokens may have rows of the media places that the model lacks, or lack them (earlier versions).
    """
    own = dict(model.named_parameters())
    unknown = sorted(set(tensors) - set(own))
    if unknown or not tensors:
        found = f"{', '.join(unknown[:3])} is not a parameter of the model" if unknown else "it has no tensors"
        raise CheckpointError(f"{source}: {found}. Use a checkpoint that was trained with this model.")
    tensors = {
        name: fit_table(tensor, own[name].shape[0]) if name in PLACE_TABLES else tensor
        for name, tensor in tensors.items()
    }
    for name, tensor in tensors.items():
        if tensor.shape != own[name].shape:
            raise CheckpointError(
                f"{source}: {name} has shape {list(tensor.shape)}, but {list(own[name].shape)} in the model. "
                "Use the model folder that this checkpoint was trained with."
            )
    with torch.no_grad():
        for name, tensor in tensors.items():
            own[name].copy_(shard_like(tensor.to(own[name].dtype), own[name]))


def restore_weights(folder: Path, model: nn.Module) -> int:
    """Load the trained parameters of a checkpoint or of ``best/``; return its number of completed steps.

    Raises CheckpointError if it is incomplete or has other parameters than this run trains.
    """
    tensors = read_trained(folder)
    own = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    if set(tensors) != own:
        differing = sorted(set(tensors) ^ own)
        raise CheckpointError(
            f"{folder} has other trained parameters than this run, such as {differing[0]}. Resume with its own config."
        )
    load_trained(model, tensors, source=str(folder))
    names = (TRAINING_STATE_FILE, VALID_STATE_FILE)
    state = next((folder / name for name in names if (folder / name).is_file()), None)
    try:
        if state is None:
            raise FileNotFoundError(f"no {TRAINING_STATE_FILE}")
        check_intact(state)
        return int(read_json(state)["step"])
    except BAD_STATES as error:
        raise CheckpointError(f"{folder} is incomplete ({error}). Resume from an earlier checkpoint.") from error


def restore_checkpoint(folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> TrainingState:
    """Load the trained parameters and the optimizer state of a checkpoint of this run; return its training state.

    Raises CheckpointError if it is incomplete or has other parameters than this run trains.
    """
    restore_weights(folder, model)
    try:
        data = json.dumps(read_json(folder / TRAINING_STATE_FILE))
        state = TypeAdapter(TrainingState).validate_json(data, strict=True)
        if state.left_out is not None and state.left_out.keys() != {"drawn", "bad"}:
            raise ValueError(f"{TRAINING_STATE_FILE} has other counts than drawn and bad")
        if min(state.step, state.world_size - 1, state.batch_size - 1) < 0:
            raise ValueError(f"{TRAINING_STATE_FILE} has a number out of range")
        check_intact(folder / OPTIMIZER_FILE)
        load_optimizer_state(optimizer, read_pickle(folder / OPTIMIZER_FILE, is_mapped=False))
        return state
    except BAD_STATES as error:
        reason = " ".join(str(error).split())[:300]
        raise CheckpointError(
            f"{folder} is incomplete or damaged ({reason}). Resume from an earlier checkpoint."
        ) from error
