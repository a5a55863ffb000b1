"""The trained parts and all that the next step depends on, written whole or not at all.

```
checkpoints/step_000500/
  trained.safetensors   the parameters that train, by their names in the model
  optimizer.pt          AdamW's state
  state.json            {"step", "world_size", "batch_size", "scaler", "left_out"}
  config.yaml           the settings as resolved
  checkpoint_N.pth      the same weights and state in the reference's form, where run.save_reference_pth asks for it
```
Nothing else is needed: the data's order, augmentation and dropout follow from the seed and the step's number.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from video_llama.errors import CheckpointError
from video_llama.training.parallel import like, load_optimizer_state, whole
from video_llama.training.reference_checkpoint import reference_checkpoint, reference_file

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

TRAINED_FILE = "trained.safetensors"
OPTIMIZER_FILE = "optimizer.pt"
STATE_FILE = "state.json"
CONFIG_FILE = "config.yaml"
BEST_FOLDER = "best"
VALID_STATE_FILE = "valid.json"


@dataclass(frozen=True)
class State:
    """Where a run stands: ``step`` steps are done. ``batch_size`` is the rows of a batch over all processes."""

    step: int
    world_size: int
    batch_size: int
    scaler: dict[str, Any] | None = None
    """Where fp16's loss scale stands."""
    left_out: dict[str, dict[str, float]] | None = None
    """How many samples were drawn, and how many of them could not be read, in every data set that skips such."""


def trained_tensors(model: nn.Module, *, keeps: bool = True) -> dict[str, Tensor]:
    """The parameters that train, by name, whole and on the CPU; with shards, every process must ask for them.

    One that does not write them ``keeps`` none: eight copies of a whole decoder would not fit into a machine.
    """
    tensors: dict[str, Tensor] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            tensor = whole(parameter.detach())
            if keeps:
                tensors[name] = tensor.cpu().contiguous()
    return tensors


def save_checkpoint(
    run_folder: Path,
    tensors: Mapping[str, Tensor],
    optimizer_state: Mapping[str, Any],
    state: State,
    config_text: str,
    *,
    keep_last: int,
    reference_epoch: int | None = None,
) -> Path:
    """Write checkpoints/step_N, and only then delete the oldest beyond ``keep_last``.

    ``tensors`` are ``trained_tensors(model)``; ``reference_epoch`` asks for the reference's file, of that
    epoch. Raises CheckpointError where it cannot be written; what was there stays.
    """
    import torch

    folder = run_folder / "checkpoints" / f"step_{state.step:06d}"
    with _new_folder(folder) as unfinished:
        _write_weights(unfinished, tensors, config_text)
        torch.save(optimizer_state, unfinished / OPTIMIZER_FILE)
        (unfinished / STATE_FILE).write_text(json.dumps(asdict(state)), encoding="utf-8")
        if reference_epoch is not None:
            content = reference_checkpoint(tensors, optimizer_state, state.scaler, config_text, reference_epoch)
            torch.save(content, unfinished / reference_file(reference_epoch))
    for old in checkpoints(run_folder)[:-keep_last]:
        shutil.rmtree(old)
    return folder


def save_best(run_folder: Path, tensors: Mapping[str, Tensor], config_text: str, row: Mapping[str, float]) -> None:
    """Write the trained parts to best/, with the validation's ``row``. Raises CheckpointError as a checkpoint does."""
    with _new_folder(run_folder / BEST_FOLDER) as unfinished:
        _write_weights(unfinished, tensors, config_text)
        (unfinished / VALID_STATE_FILE).write_text(json.dumps(row), encoding="utf-8")


def best_loss(run_folder: Path) -> float:
    """The lowest validation loss of a run so far; infinity where there is none. CheckpointError if it is unreadable."""
    path = run_folder / BEST_FOLDER / VALID_STATE_FILE
    try:
        return float(json.loads(path.read_text(encoding="utf-8"))["loss"])
    except FileNotFoundError:
        return float("inf")
    except (OSError, ValueError, KeyError) as error:
        raise CheckpointError(f"{path} cannot be read ({error}). Delete the folder: it is written anew.") from error


def _write_weights(folder: Path, tensors: Mapping[str, Tensor], config_text: str) -> None:
    from safetensors.torch import save_file

    save_file(dict(tensors), folder / TRAINED_FILE)
    (folder / CONFIG_FILE).write_text(config_text, encoding="utf-8")


@contextmanager
def _new_folder(folder: Path) -> Iterator[Path]:
    """A folder to fill, which gets its name, and the place of one that has it, when it is whole and on the disk."""
    from safetensors import SafetensorError

    unfinished = folder.with_name(f".{folder.name}.part")
    try:
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(parents=True)
        yield unfinished
        _to_disk(unfinished)
        old = folder.with_name(f".{folder.name}.old")
        shutil.rmtree(old, ignore_errors=True)
        if folder.exists():
            folder.rename(old)  # deleting it takes longer, and until then there would be none
        unfinished.rename(folder)
        shutil.rmtree(old, ignore_errors=True)
    except (OSError, RuntimeError, SafetensorError) as error:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise CheckpointError(
            f"{folder} cannot be written: {error}. Earlier checkpoints are kept; make room."
        ) from error


def _to_disk(folder: Path) -> None:
    """Have the files on the disk before the folder gets its name."""
    for path in (*folder.iterdir(), folder):
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def checkpoints(run_folder: Path) -> list[Path]:
    """The whole checkpoints of a run, the newest last."""
    return sorted((run_folder / "checkpoints").glob("step_*"), key=lambda path: int(path.name.removeprefix("step_")))


def newest_checkpoint(run_folder: Path) -> Path | None:
    """The newest whole checkpoint of a run, or None."""
    return next(iter(reversed(checkpoints(run_folder))), None)


def trained_file(path: str | Path) -> Path:
    """The file that :func:`read_trained` reads. Raises CheckpointError where there is none."""
    path = Path(path)
    file = path
    if path.is_dir():
        file = (path if (path / TRAINED_FILE).is_file() else newest_checkpoint(path) or path) / TRAINED_FILE
    if not file.is_file():
        raise CheckpointError(
            f"{path}: no trained parts there. Give a .safetensors file, a checkpoint or a run folder."
        )
    return file


def read_trained(path: str | Path) -> dict[str, Tensor]:
    """The trained parts in a .safetensors file, a checkpoint folder, or a run folder (its newest checkpoint).

    Raises CheckpointError where there are none.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    file = trained_file(path)
    try:
        return load_file(file)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            f"{file} cannot be read ({error}). Copy it again, or use an earlier checkpoint."
        ) from error


def load_trained(model: nn.Module, tensors: Mapping[str, Tensor], *, source: str) -> None:
    """Put trained parts into a model. Raises CheckpointError for a name or shape that is not the model's."""
    import torch

    own = dict(model.named_parameters())
    unknown = sorted(set(tensors) - set(own))
    if unknown or not tensors:
        raise CheckpointError(
            f"{source}: {', '.join(unknown[:3]) or 'nothing'} in it is not the model's. Another model's?"
        )
    for name, tensor in tensors.items():
        if tensor.shape != own[name].shape:
            raise CheckpointError(
                f"{source}: {name} has shape {list(tensor.shape)}, the model's has {list(own[name].shape)}. "
                "Train with the model folder that this checkpoint belongs to."
            )
    with torch.no_grad():
        for name, tensor in tensors.items():
            own[name].copy_(like(tensor.to(own[name].dtype), own[name]))


def restore_weights(folder: Path, model: nn.Module) -> int:
    """Put the trained parts of a checkpoint or of ``best/`` back; return the number of steps that were done.

    Raises CheckpointError where it trains other parts than this run, or is not whole.
    """
    tensors = read_trained(folder)
    own = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    if set(tensors) != own:
        differing = sorted(set(tensors) ^ own)
        raise CheckpointError(f"{folder}: other parts train here, such as {differing[0]}. Resume with its own config.")
    load_trained(model, tensors, source=str(folder))
    state = next((folder / name for name in (STATE_FILE, VALID_STATE_FILE) if (folder / name).is_file()), None)
    try:
        if state is None:
            raise FileNotFoundError(f"no {STATE_FILE}")
        return int(json.loads(state.read_text(encoding="utf-8"))["step"])
    except (OSError, ValueError, KeyError) as error:
        raise CheckpointError(f"{folder} is not a whole checkpoint ({error}). Resume from an earlier one.") from error


def restore_checkpoint(folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> State:
    """Put a checkpoint of this run back: weights, AdamW's state; return where the run stands.

    Raises CheckpointError where the checkpoint trains other parts than this run.
    """
    import torch

    restore_weights(folder, model)
    try:
        state: dict[str, Any] = json.loads((folder / STATE_FILE).read_text(encoding="utf-8"))
        load_optimizer_state(optimizer, torch.load(folder / OPTIMIZER_FILE, weights_only=True))
        return State(**state)
    except (OSError, ValueError, TypeError, RuntimeError) as error:
        raise CheckpointError(f"{folder} is not a whole checkpoint ({error}). Resume from an earlier one.") from error
