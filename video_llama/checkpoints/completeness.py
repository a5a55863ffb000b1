"""Compare the tensors of a folder's files with those that the model needs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from video_llama.checkpoints.files import Shape, StoredTensor
from video_llama.errors import CheckpointError
from video_llama.models.configuration import VideoLlamaConfig
from video_llama.models.placement import meta_model
from video_llama.models.video_llama import VideoLlamaForConditionalGeneration

NUM_NAMED = 5
"""Number of tensors that an error names before it counts the rest."""


def expected_shapes(config: VideoLlamaConfig) -> dict[str, Shape]:
    """Return name -> shape of the stored tensors of a model; of tied tensors, only the stored one."""
    return shapes_of(meta_model(config))


def shapes_of(model: VideoLlamaForConditionalGeneration) -> dict[str, Shape]:
    """Return name -> shape of the stored tensors of a model; of tied tensors, only the stored one."""
    tied = model.all_tied_weights_keys
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items() if name not in tied}


def check_tensors(expected: Mapping[str, Shape], stored: Mapping[str, StoredTensor], where: str) -> None:
    """Raise CheckpointError, with names and shapes, unless both have the same tensors."""
    missing = [name for name in expected if name not in stored]
    unexpected = [name for name in stored if name not in expected]
    mismatched = [
        f"{name} is {list(stored[name].shape)} and must be {list(shape)}"
        for name, shape in expected.items()
        if name in stored and stored[name].shape != shape
    ]
    problems = [
        f"{kind} ({len(names)}): {first_names(names)}"
        for names, kind in (
            (missing, "missing tensors"),
            (unexpected, "unexpected tensors"),
            (mismatched, "wrong shapes"),
        )
        if names
    ]
    if problems:
        raise CheckpointError(
            f"{where}: the files do not match config.json: {'; '.join(problems)}. Copy the whole folder again; "
            "`video-llama inspect` lists its parts."
        )


def first_names(names: Sequence[str]) -> str:
    """Return the first NUM_NAMED names and the number of the others, for an error message."""
    rest = len(names) - NUM_NAMED
    return ", ".join(names[:NUM_NAMED]) + (f" and {rest} more" if rest > 0 else "")
