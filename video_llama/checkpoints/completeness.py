"""Compare the tensors of a folder's files with those that the model needs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from video_llama.checkpoints.files import Shape, StoredTensor, read_values
from video_llama.errors import CheckpointError
from video_llama.models.configuration import VideoLlamaConfig
from video_llama.models.placement import meta_model
from video_llama.models.video_llama import VideoLlamaForConditionalGeneration

OUTPUT, EMBEDDING = "lm_head.weight", "model.language_model.embed_tokens.weight"
NUM_NAMED = 5
"""Number of tensors that an error names before it counts the rest."""


def expected_shapes(config: VideoLlamaConfig) -> dict[str, Shape]:
    """Return name -> shape of the stored tensors of a model; of tied tensors, only the stored one."""
    return shapes_of(meta_model(config))


def shapes_of(model: VideoLlamaForConditionalGeneration) -> dict[str, Shape]:
    """Return name -> shape of the stored tensors of a model; of tied tensors, only the stored one."""
    tied = model.all_tied_weights_keys
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items() if name not in tied}


def without_tied_output(
    stored: Mapping[str, StoredTensor], expected: Mapping[str, Shape], where: str
) -> dict[str, StoredTensor]:
    """Return ``stored`` without the decoder's output layer if the model shares it with the word embedding.

    Raises CheckpointError if the stored layer has other values than the embedding.
    """
    if OUTPUT in expected or OUTPUT not in stored or EMBEDDING not in stored:
        return dict(stored)
    pair = dict(read_values({name: stored[name] for name in (OUTPUT, EMBEDDING)}))
    check_tied_output(pair[OUTPUT], pair[EMBEDDING], where)
    return {name: tensor for name, tensor in stored.items() if name != OUTPUT}


def check_tied_output(output: Tensor, embedding: Tensor, where: str) -> None:
    """Raise CheckpointError unless a stored output layer equals the word embedding that is used in its place."""
    if output.shape != embedding.shape or not torch.equal(output.to(embedding.dtype), embedding):
        raise CheckpointError(
            f"{where}: tie_word_embeddings is true, but the stored {OUTPUT} differs from embed_tokens.weight. Set "
            "tie_word_embeddings to false in the config.json of the decoder."
        )


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
