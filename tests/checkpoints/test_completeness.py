"""Compare the tensors of files with those of a model."""

from pathlib import Path

import pytest
import torch

from tests.factories.models import tiny_config
from video_llama.checkpoints.completeness import NUM_NAMED, check_tensors, expected_shapes, first_names, shapes_of
from video_llama.checkpoints.files import StoredTensor
from video_llama.errors import CheckpointError
from video_llama.models.placement import meta_model

EXPECTED = {"a": (2, 3), "b": (4,)}


def stored(**shapes: tuple[int, ...]) -> dict[str, StoredTensor]:
    return {name: StoredTensor(Path("x"), name, shape, torch.float32) for name, shape in shapes.items()}


def test_expected_shapes_are_those_of_the_model():
    config = tiny_config(380)
    shapes = expected_shapes(config)
    assert shapes == shapes_of(meta_model(config))
    assert shapes["lm_head.weight"] == (380, 32)
    assert shapes["model.video_qformer.query_tokens"] == (1, 5, 24)


def test_of_tied_tensors_only_the_stored_one_is_expected():
    shapes = expected_shapes(tiny_config(380, text_config={"tie_word_embeddings": True}))
    assert "lm_head.weight" not in shapes
    assert "model.language_model.embed_tokens.weight" in shapes


def test_complete_files():
    check_tensors(EXPECTED, stored(a=(2, 3), b=(4,)), "folder")


@pytest.mark.parametrize(
    ("shapes", "problem"),
    [
        ({"a": (2, 3)}, r"missing tensors \(1\): b"),
        ({"a": (2, 3), "b": (4,), "c": (1,)}, r"unexpected tensors \(1\): c"),
        ({"a": (2, 4), "b": (4,)}, r"wrong shapes \(1\): a is \[2, 4\] and must be \[2, 3\]"),
        ({"a": (1,), "c": ()}, r"missing tensors \(1\): b; unexpected tensors \(1\): c; wrong shapes \(1\): a is"),
    ],
)
def test_differences_are_errors(shapes, problem):
    with pytest.raises(
        CheckpointError, match=rf"folder: .*{problem}.*Copy the whole folder again.*video-llama inspect"
    ):
        check_tensors(EXPECTED, stored(**shapes), "folder")


def test_names_beyond_the_first_are_counted():
    names = [str(number) for number in range(NUM_NAMED + 2)]
    assert first_names(names) == "0, 1, 2, 3, 4 and 2 more"
    assert first_names(names[:NUM_NAMED]) == "0, 1, 2, 3, 4"
