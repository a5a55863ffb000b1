"""Read and write ``familiarity.safetensors``, an optional file of a model folder.

It holds the statistics of the training media's features, and the warning shown for media unlike them
(``models/familiarity.py``). Its tensors are ``NAME.mean`` [F] and ``NAME.whitening`` [F, R] of each test; its metadata
hold the settings of the tests as JSON.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from video_llama.checkpoints.files import opened
from video_llama.errors import CheckpointError
from video_llama.files import new_file, parse_json
from video_llama.models.configuration import VideoLlamaConfig
from video_llama.models.familiarity import PARTS, POOLINGS, Familiarity, FeatureTest

FAMILIARITY_FILE = "familiarity.safetensors"
METADATA_KEY = "familiarity"
MAX_TESTS = 16
MAX_SETTINGS_BYTES = 2**20
_HEADER_LENGTH_BYTES = 8
_KEYS = {"name", "part", "block", "pooling", "limits", "limits_of_one"}


def write_familiarity(folder: Path, familiarity: Familiarity) -> Path:
    """Write the file into a model folder, atomically, and return its path."""
    tensors: dict[str, Tensor] = {}
    for test in familiarity.tests:
        tensors[f"{test.name}.mean"] = test.mean.float().contiguous()
        tensors[f"{test.name}.whitening"] = test.whitening.float().contiguous()
    tests = [{key: getattr(test, key) for key in sorted(_KEYS)} for test in familiarity.tests]
    text = json.dumps({"warning": familiarity.warning, "tests": tests}, allow_nan=False)
    path = folder / FAMILIARITY_FILE
    with new_file(path) as unfinished:
        save_file(tensors, unfinished, metadata={METADATA_KEY: text})
    return path


def read_familiarity(folder: Path, config: VideoLlamaConfig) -> Familiarity | None:
    """Read the file of a model folder; None without it.

    Raises CheckpointError, naming the file, if it is damaged or does not fit the model.
    """
    path = folder / FAMILIARITY_FILE
    if not path.exists():
        return None
    with opened(path) as stored:
        tensors = {name: stored[name].clone() for name in stored}
    try:
        data = _metadata(path)
        tests = tuple(_test(entry, tensors, config) for entry in data["tests"])
        warning = data["warning"]
        if not isinstance(warning, str) or not warning.strip() or set(data) != {"tests", "warning"}:
            raise ValueError("the keys must be tests and warning, and warning a text")
        if len({test.name for test in tests}) != len(tests):
            raise ValueError("two tests have the same name")
        if tensors:
            raise ValueError(f"unknown tensor {min(tensors)}")
    except (ValueError, KeyError, TypeError, OSError) as error:
        reason = f"missing key {error}" if isinstance(error, KeyError) else str(error)
        raise CheckpointError(
            f"{path} is damaged or does not belong to this model ({reason}). Copy it again, or remove it to answer "
            "without its warning."
        ) from error
    return Familiarity(" ".join(warning.split()), tests)


def _metadata(path: Path) -> dict[str, Any]:
    """Return the settings in the header of the file, which has a limited size."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(_HEADER_LENGTH_BYTES), "little")
        if length > MAX_SETTINGS_BYTES:
            raise ValueError(f"the header has {length:,} bytes")
        header = parse_json(file.read(length).decode())
    data = parse_json(header["__metadata__"][METADATA_KEY])
    if not isinstance(data, dict) or not isinstance(data.get("tests"), list):
        raise ValueError("the metadata have no list of tests")
    if not 0 < len(data["tests"]) <= MAX_TESTS:
        raise ValueError(f"{len(data['tests'])} tests instead of 1 to {MAX_TESTS}")
    return data


def _test(entry: Any, tensors: dict[str, Tensor], config: VideoLlamaConfig) -> FeatureTest:
    """Return one test and remove its tensors from ``tensors``."""
    if not isinstance(entry, dict) or set(entry) != _KEYS:
        raise ValueError(f"the keys of a test must be {', '.join(sorted(_KEYS))}")
    name, part, pooling = entry["name"], entry["part"], entry["pooling"]
    if part not in PARTS or pooling not in POOLINGS or not isinstance(name, str):
        raise ValueError(f"unknown part {part!r} or pooling {pooling!r}")
    if part == "sound" and not config.with_audio_branch:
        raise ValueError("the model has no audio branch")
    encoder = config.vision_config if part == "frames" else config.imagebind_audio_config
    block = _whole(entry["block"], 0, encoder.num_hidden_layers - 1)
    size = encoder.hidden_size * {"class_and_mean": 2, "tokens": 1}[pooling]
    mean, whitening = tensors.pop(f"{name}.mean"), tensors.pop(f"{name}.whitening")
    if mean.shape != (size,) or whitening.dim() != 2 or len(whitening) != size or not whitening.shape[1]:
        raise ValueError(f"{name} has shapes {list(mean.shape)} and {list(whitening.shape)}, but the model has {size}")
    for tensor in (mean, whitening):
        if tensor.dtype != torch.float32 or not tensor.isfinite().all():
            raise ValueError(f"{name} has values that are not finite float32 numbers")
    limits, limits_of_one = _limits(entry["limits"]), _limits(entry["limits_of_one"])
    return FeatureTest(name, part, block, pooling, limits, limits_of_one, mean, whitening)


def _whole(value: Any, low: int, high: int) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise ValueError(f"{value!r} is not a whole number from {low} to {high}")
    return value


def _limits(value: Any) -> tuple[float, float]:
    is_pair = isinstance(value, list) and len(value) == 2 and all(type(bound) in (int, float) for bound in value)
    if not is_pair or not all(math.isfinite(bound) for bound in value) or not 0 <= value[0] < value[1]:
        raise ValueError(f"{value!r} are not two limits in ascending order")
    return float(value[0]), float(value[1])
