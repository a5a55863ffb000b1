"""The tensors of a model folder, read from the headers of its files, against those that the model needs."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING

from video_llama.errors import CheckpointError

if TYPE_CHECKING:
    from video_llama.models.configuration import VideoLlamaConfig
    from video_llama.models.video_llama import VideoLlamaForConditionalGeneration

WEIGHTS_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
NUM_NAMED = 5
"""How many tensors an error names before it counts the rest."""

Shape = tuple[int, ...]


@dataclass(frozen=True)
class StoredTensor:
    """Where a tensor lies, and what it is; ``dtype`` in safetensors' words (F32, BF16, ...)."""

    file: Path
    shape: Shape
    dtype: str

    @property
    def num_bytes(self) -> int:
        """Its size in the file; the type's name says its bits, and a BOOL takes a byte."""
        bits = re.search(r"\d+", self.dtype)
        return prod(self.shape) * (int(bits.group()) if bits else 8) // 8


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files of a folder: one, or the shards that its index names.

    Raises CheckpointError where there is none, or a shard is missing.
    """
    index = folder / INDEX_FILE
    if not index.is_file():
        if not (folder / WEIGHTS_FILE).is_file():
            raise CheckpointError(f"{folder} has neither {WEIGHTS_FILE} nor {INDEX_FILE}. Copy the weights there.")
        return [folder / WEIGHTS_FILE]
    try:
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    except (ValueError, KeyError, AttributeError) as error:
        raise CheckpointError(f"{index} is no index of safetensors shards ({error!r}). Copy it again.") from error
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise CheckpointError(f"{folder} lacks {', '.join(missing)}, which {INDEX_FILE} names. Copy the shards there.")
    return [folder / name for name in names]


def stored_tensors(folder: Path) -> dict[str, StoredTensor]:
    """Every tensor in the folder's files, by name; nothing but headers is read.

    Raises CheckpointError for a file that is no safetensors file or cut short, and for a name that stands twice.
    """
    from safetensors import SafetensorError, safe_open

    tensors: dict[str, StoredTensor] = {}
    for file in weight_files(folder):
        try:
            with safe_open(file, framework="pt") as opened:
                for name in opened.keys():  # noqa: SIM118  (not a mapping)
                    if name in tensors:
                        raise CheckpointError(f"{file} and {tensors[name].file} both hold {name}. Remove one of them.")
                    part = opened.get_slice(name)
                    tensors[name] = StoredTensor(file, tuple(part.get_shape()), part.get_dtype())
        except (SafetensorError, OSError) as error:
            raise CheckpointError(f"{file} is damaged or no safetensors file ({error}). Copy it again.") from error
    return tensors


def expected_shapes(config: VideoLlamaConfig) -> dict[str, Shape]:
    """The tensors that a model of this configuration is made of; of tied ones, only the one that is stored."""
    from video_llama.models.placing import meta_model

    return shapes_of(meta_model(config))


def shapes_of(model: VideoLlamaForConditionalGeneration) -> dict[str, Shape]:
    """The tensors that a model is made of; of tied ones, only the one that is stored."""
    tied = model.all_tied_weights_keys
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items() if name not in tied}


def check_tensors(expected: Mapping[str, Shape], stored: Mapping[str, StoredTensor], where: str) -> None:
    """Raise CheckpointError, with names and shapes, unless the two agree in every tensor."""
    missing = [name for name in expected if name not in stored]
    unexpected = [name for name in stored if name not in expected]
    mismatched = [
        f"{name} is {list(stored[name].shape)} and must be {list(shape)}"
        for name, shape in expected.items()
        if name in stored and stored[name].shape != shape
    ]
    problems = [
        f"{len(names)} {what}: {_some(names)}"
        for names, what in ((missing, "missing"), (unexpected, "unexpected"), (mismatched, "of the wrong shape"))
        if names
    ]
    if problems:
        raise CheckpointError(
            f"{where}: the files do not hold the model that config.json describes. Tensors {'; '.join(problems)}. "
            "Copy the whole folder again; `video-llama inspect` shows it part by part."
        )


def _some(names: Sequence[str]) -> str:
    rest = len(names) - NUM_NAMED
    return ", ".join(names[:NUM_NAMED]) + (f" and {rest} more" if rest > 0 else "")
