"""Load a model that answers: by name, from a model folder, or from published files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from video_llama.chat.assistant import Assistant
from video_llama.checkpoints.folder import read_model_folder
from video_llama.checkpoints.loading import load_yaml_model
from video_llama.checkpoints.placement import Dtypes
from video_llama.checkpoints.published_files import is_published
from video_llama.errors import CheckpointError

if TYPE_CHECKING:
    import torch

MINIATURE = "miniature"
MINIATURE_PATH = Path(__file__).resolve().parent.parent / "miniature" / "weights"


def model_path(name_or_path: str | Path) -> Path:
    """The folder that a name stands for. Raises CheckpointError where the miniature's weights are not there."""
    if str(name_or_path) != MINIATURE:
        return Path(name_or_path)
    if not MINIATURE_PATH.is_dir():
        raise CheckpointError(
            f"The miniature's weights are not at {MINIATURE_PATH}. Make them with: video-llama miniature train"
        )
    return MINIATURE_PATH


def usable_device(device: torch.device | str | None) -> torch.device:
    """The device of this name; None is the GPU if there is one, else the CPU. ValueError for one that is not here."""
    import torch

    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(device)
        torch.empty(0, device=device).cpu()  # a device without values, "meta", has nothing to give back
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).partition("\n")[0]
        raise ValueError(f"device {str(device)!r} cannot be used here ({reason}). Use cpu.") from error
    return device


def load(
    name_or_path: str | Path = MINIATURE,
    *,
    device: torch.device | str | None = None,
    dtype: Dtypes | None = None,
    quantization: str | None = None,
    device_map: Mapping[str, Any] | str | None = None,
    max_memory: Mapping[Any, Any] | None = None,
    low_resource: bool = False,
    options: Sequence[str] = (),
) -> Assistant:
    """Load "miniature" (the weights that come with the package), a model folder, or published files.

    The latter by an evaluation YAML or the folder that they lie in, without writing anything. ``device`` None is the
    GPU if there is one, else the CPU; ``dtype`` None is the stored one, a name is for all parts and a mapping for
    single ones; ``quantization`` "int8" or "int4" packs the decoder; ``device_map`` "auto" spreads the model over what
    there is, within ``max_memory`` (on disk from a model folder only); ``low_resource`` is int8 with the ViT on the CPU
    (docs/memory.md); ``options`` override the YAML, as "model.ckpt=VL.pth". Raises CheckpointError for weights that are
    not there, not whole, or not trained, ConfigError for a YAML that cannot be used, ValueError for a device, dtype or
    placing that is not to be had, and for options without a YAML.
    """
    placing: dict[str, Any] = {
        "device": usable_device(device),
        "dtype": dtype,
        "quantization": quantization,
        "device_map": device_map,
        "max_memory": max_memory,
        "low_resource": low_resource,
    }
    path = model_path(name_or_path)
    if is_published(path):
        return Assistant(load_yaml_model(path, options=options, **placing))
    if options:
        raise ValueError(
            f"options are {', '.join(options)}, and {name_or_path} is no YAML that they could override. Leave them "
            "out, or give an evaluation YAML or the folder of the published files."
        )
    return Assistant(read_model_folder(path, **placing))
